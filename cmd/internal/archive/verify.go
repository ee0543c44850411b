package archive

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"commissaire/adapters/transparency"
	"commissaire/cmd/internal/terminal"
)

// Verified is what was found of a log and of the checkpoints that it was held against.
type Verified struct {
	transparency.Report
	Checkpoints int      `json:"checkpoints"`        // that a known key signed
	Forged      []string `json:"checkpoints_forged"` // what is wrong with others
}

// MarshalJSON writes no forged checkpoints as an empty list.
func (v Verified) MarshalJSON() ([]byte, error) {
	type plain Verified
	v.Forged = append([]string{}, v.Forged...)
	return json.Marshal(plain(v))
}

// Text says it in lines, with all findings.
func (v Verified) Text() string {
	var text strings.Builder
	for _, forged := range v.Forged {
		fmt.Fprintln(&text, forged)
	}
	unreadable := 0
	for _, f := range v.Findings {
		fmt.Fprintln(&text, terminal.Escape(f.String()))
		if f.Kind == transparency.Unreadable {
			unreadable++
		}
	}
	fmt.Fprintf(&text, "%d events, up to position %d, root %s\n", v.Events, v.Last, base64.StdEncoding.EncodeToString(v.Root))
	fmt.Fprintf(&text, "%d of %d checkpoints hold; %d events were compared with the tree that was kept; %d findings, %d of what cannot be read\n",
		v.Held, v.Checkpoints+len(v.Forged), v.Compared, len(v.Findings)+len(v.Forged), unreadable)
	return text.String()
}

// ReadCheckpoints reads files of signed checkpoints. It returns those that one of keys
// signed, and what is wrong with others. Keys are verifier keys, or files with one; one at
// least is needed, where there are files.
func ReadCheckpoints(files, keys []string) (checkpoints []transparency.Checkpoint, forged []string, err error) {
	if len(files) == 0 {
		return nil, nil, nil
	}
	if len(keys) == 0 {
		return nil, nil, errors.New("--key is needed to verify checkpoints: the verifier key that commissaire events key printed")
	}
	verifiers, err := readVerifiers(keys)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, nil, fmt.Errorf("--checkpoint: %w", err)
		}
		all := transparency.Whole(text)
		if len(all) == 0 {
			forged = append(forged, name+" has no checkpoint")
		}
		for i, signed := range all {
			which := fmt.Sprintf("checkpoint %d in %s", i+1, name)
			checkpoint, err := transparency.ParseCheckpoint(signed, verifiers)
			if err != nil {
				forged = append(forged, fmt.Sprintf("%s: %v", which, err))
				continue
			}
			checkpoint.Name = which
			checkpoints = append(checkpoints, checkpoint)
		}
	}
	return checkpoints, forged, nil
}

// readVerifiers reads verifier keys, or files that have one.
func readVerifiers(keys []string) (note.Verifiers, error) {
	var all []string
	for _, key := range keys {
		if _, err := transparency.Verifiers(key); err != nil {
			text, unread := os.ReadFile(key)
			if unread != nil {
				return nil, fmt.Errorf("--key: %w", err)
			}
			key = string(text)
		}
		all = append(all, key)
	}
	verifiers, err := transparency.Verifiers(all...)
	if err != nil {
		return nil, fmt.Errorf("--key: %w", err)
	}
	return verifiers, nil
}
