package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"commissaire/adapters/transparency"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/store"
	"commissaire/cmd/internal/terminal"
)

func keyCommand() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "key FILE", Short: "Make a key that signs checkpoints of the log, and print its verifier key", Args: cobra.ExactArgs(1),
		Long: `Make an Ed25519 key that signs checkpoints of the log in a new file, for its owner
alone, and print the verifier key: with that, and without the file, anyone can verify
what is signed. Of a file that has a key the verifier key is printed, and nothing made.

Configure it as log.signing-key, file:FILE. It must not lie in the store's directory:
who can change the log must not be able to sign what came of it.`,
		Example: `  commissaire events key /etc/commissaire/signing-key --name commissaire.example.com`,
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the service, in every checkpoint; no blanks and no + (default the host's name)")
	cmd.RunE = func(cmd *cobra.Command, arguments []string) error {
		key, err := makeOrReadKey(cmd, arguments[0], name)
		if err != nil {
			return fmt.Errorf("events key: %w", err)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), key.Verifier())
		return err
	}
	return cmd
}

func makeOrReadKey(cmd *cobra.Command, path, name string) (*transparency.Key, error) {
	if _, err := os.Lstat(path); err == nil {
		return config.ReadSigningKey(cmd.Context(), "file:"+path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("name the service: %w; give --name", err)
		}
		name = host
	}
	secret, key, err := transparency.GenerateKey(name)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = file.Write(secret)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return key, nil
}

// verification is what events verify is asked for.
type verification struct {
	from        source
	checkpoints []string // files
	keys        []string // verifier keys, or files with one
	tree        string
	format      string
}

func verifyCommand() *cobra.Command {
	var v verification
	cmd := &cobra.Command{
		Use: "verify", Short: "Find out whether what was recorded was changed", Args: cobra.NoArgs,
		Long: `Find out whether what was recorded was changed: an event that was edited, removed,
inserted or put elsewhere, a log that was cut off. The log of a store, also while a
service uses it, or of files that were exported is read to its end and its Merkle tree
made afresh; it is held against

  - itself: revisions of each stream without gaps, ids unique, every event readable;
  - checkpoints (--checkpoint, else log.checkpoint-file where it is configured), which
    must be signed by a key that is given (--key, else that of log.signing-key);
  - the tree that the service keeps beside its store (--tree).

What cannot be read (of a later version; a damaged file or disk) is no sign of a change,
and is told apart from one; where the tree or a checkpoint says that it is what was
recorded, so does verify.

The first bad position is named. What differs from the tree is named exactly. Without
the tree, or where somebody made that anew, a checkpoint that does not hold says that
something between it and the last one that holds was changed: those positions are
named. What was recorded after the last checkpoint is vouched for by nothing outside.

The exit status is 0 only where there is no finding.`,
		Example: `  commissaire events verify
  commissaire events verify --file events.ndjson.zst --checkpoint checkpoints --key commissaire.example.com+1a2b3c4d+AX…`,
	}
	v.from.flags(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&v.checkpoints, "checkpoint", nil, "a file of signed checkpoints; may be repeated")
	flags.StringArrayVar(&v.keys, "key", nil, "a verifier key (NAME+HASH+KEY), or a file with one; may be repeated")
	flags.StringVar(&v.tree, "tree", "", "the tree that was kept (default log.tree-dir, or that beside the store, where there is one); none: do without")
	flags.StringVarP(&v.format, "output", "o", "text", "text or json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		err := v.run(cmd)
		if err != nil && cmd.Context().Err() != nil {
			return errors.New("verify: interrupted")
		}
		return err
	}
	return cmd
}

func (v *verification) run(cmd *cobra.Command) (err error) {
	if v.format != "text" && v.format != "json" {
		return fmt.Errorf("there is no output %q: use text or json", v.format)
	}
	log, err := v.from.open(cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	checkpoints, forged, err := v.known(cmd)
	if err != nil {
		return err
	}
	kept, err := v.kept(log)
	if err != nil {
		return err
	}
	if kept != nil {
		defer func() { err = errors.Join(err, kept.Discard()) }()
	}
	debug.SetGCPercent(400) // there is much that lives shortly, and nothing else
	shown := terminal.NewProgress(cmd.ErrOrStderr())
	report, err := transparency.Verify(cmd.Context(), log, kept, checkpoints, shown.Count("events verified"))
	shown.End()
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if err := v.print(cmd.OutOrStdout(), report, len(checkpoints), forged); err != nil {
		return err
	}
	if err := report.Err(log.Name); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if len(forged) > 0 {
		return fmt.Errorf("verify: %s", forged[0])
	}
	return nil
}

// known are the checkpoints that a known key signed, and what is wrong with others.
func (v *verification) known(cmd *cobra.Command) (checkpoints []transparency.Checkpoint, forged []string, err error) {
	files, keys := v.checkpoints, v.keys
	if len(v.from.files) == 0 || len(files) > 0 && len(keys) == 0 { // else nothing but what is given is needed
		conf, err := v.from.load(cmd)
		if err != nil {
			return nil, nil, err
		}
		if file := conf.Log.CheckpointFile; len(files) == 0 && file != "" {
			if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
				files = []string{file}
			}
		}
		if len(files) > 0 && len(keys) == 0 && conf.Log.SigningKey != "" {
			key, err := config.ReadSigningKey(cmd.Context(), conf.Log.SigningKey)
			if err != nil {
				return nil, nil, err
			}
			keys = []string{key.Verifier()}
		}
	}
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

// kept is the tree that the service kept; nil where there is none.
func (v *verification) kept(log store.Reader) (*transparency.Tree, error) {
	dir := v.tree
	if dir == "" && v.from.store == "" && v.from.loaded != nil && len(v.from.files) == 0 {
		dir = v.from.loaded.Log.TreeDir
	}
	switch {
	case dir == "none" || dir == "" && log.Dir == "":
		return nil, nil
	case dir == "":
		dir = filepath.Join(log.Dir, store.TreeDir)
	}
	tree, err := transparency.ReadTree(dir)
	if v.tree == "" && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w; --tree none does without", err)
	}
	return tree, nil
}

func (v *verification) print(out io.Writer, report transparency.Report, checkpoints int, forged []string) error {
	if v.format == "json" {
		return json.NewEncoder(out).Encode(struct {
			transparency.Report
			Checkpoints int      `json:"checkpoints"`
			Forged      []string `json:"checkpoints_forged"`
		}{report, checkpoints, append([]string{}, forged...)})
	}
	var text strings.Builder
	for _, one := range forged {
		fmt.Fprintln(&text, one)
	}
	unreadable := 0
	for _, f := range report.Findings {
		fmt.Fprintln(&text, terminal.Escape(f.String()))
		if f.Kind == transparency.Unreadable {
			unreadable++
		}
	}
	fmt.Fprintf(&text, "%d events, up to position %d, root %s\n", report.Events, report.Last, base64.StdEncoding.EncodeToString(report.Root))
	fmt.Fprintf(&text, "%d of %d checkpoints hold; %d events were compared with the tree that was kept; %d findings, %d of what cannot be read\n",
		report.Held, checkpoints+len(forged), report.Compared, len(report.Findings)+len(forged), unreadable)
	_, err := io.WriteString(out, text.String())
	return err
}
