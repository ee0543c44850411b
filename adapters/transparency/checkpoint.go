package transparency

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/transparency-dev/formats/log"
	"golang.org/x/mod/sumdb/note"
)

// Key signs checkpoints.
type Key struct {
	signer   note.Signer
	verifier string
}

// GenerateKey makes a key of a name, which is the origin of its checkpoints: that
// of the service, as in a URL without scheme (commissaire.example.com/prod). secret
// is what ParseKey reads.
func GenerateKey(name string) (secret []byte, key *Key, err error) {
	text, _, err := note.GenerateKey(rand.Reader, name)
	if err != nil {
		return nil, nil, fmt.Errorf("make a signing key: %w", err)
	}
	if key, err = ParseKey([]byte(text)); err != nil {
		return nil, nil, err
	}
	return []byte(text + "\n"), key, nil
}

// ParseKey reads a signing key as GenerateKey made it. Errors have nothing of it.
func ParseKey(secret []byte) (*Key, error) {
	text := strings.TrimSpace(string(secret))
	signer, err := note.NewSigner(text)
	if err != nil {
		return nil, errors.New("it is no Ed25519 signing key of a signed note (PRIVATE+KEY+…)")
	}
	seed, err := base64.StdEncoding.DecodeString(strings.SplitN(text, "+", 5)[4]) // the signer has seen that it is there
	if err != nil || len(seed) != 1+ed25519.SeedSize {
		return nil, errors.New("it is no Ed25519 signing key of a signed note (PRIVATE+KEY+…)")
	}
	public, _ := ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey)
	verifier, err := note.NewEd25519VerifierKey(signer.Name(), public)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	return &Key{signer, verifier}, nil
}

// Verifier is the public key, with which checkpoints are verified.
func (k *Key) Verifier() string { return k.verifier }

// Verifiers are the keys of which one must have signed.
func Verifiers(keys ...string) (note.Verifiers, error) {
	var all []note.Verifier
	for _, key := range keys {
		verifier, err := note.NewVerifier(strings.TrimSpace(key))
		if err != nil {
			return nil, fmt.Errorf("%q is no verifier key (NAME+HASH+KEY): %w", key, err)
		}
		all = append(all, verifier)
	}
	return note.VerifierList(all...), nil
}

// Checkpoint says what the root was when the log had so many events.
type Checkpoint struct {
	Size uint64
	Root Hash
	Name string // of the file it is from, with its number there
}

// Sign is a signed checkpoint.
func (k *Key) Sign(size uint64, root Hash) ([]byte, error) {
	body := log.Checkpoint{Origin: k.signer.Name(), Size: size, Hash: root[:]}.Marshal()
	signed, err := note.Sign(&note.Note{Text: string(body)}, k.signer)
	if err != nil {
		return nil, fmt.Errorf("sign a checkpoint: %w", err)
	}
	return signed, nil
}

// ParseCheckpoint verifies a signed checkpoint. Its origin must be the name of a
// key that signed it.
func ParseCheckpoint(signed []byte, known note.Verifiers) (Checkpoint, error) {
	opened, err := note.Open(signed, known)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("it is not signed by a key that is known: %w", err)
	}
	var body log.Checkpoint
	rest, err := body.Unmarshal([]byte(opened.Text))
	switch {
	case err != nil:
		return Checkpoint{}, err
	case len(rest) > 0 || len(body.Hash) != hashSize:
		return Checkpoint{}, errors.New("it is no checkpoint of an event log")
	}
	for _, signature := range opened.Sigs {
		if signature.Name == body.Origin {
			return Checkpoint{Size: body.Size, Root: Hash(body.Hash)}, nil
		}
	}
	return Checkpoint{}, fmt.Errorf("it is of %q, and that did not sign it", body.Origin)
}

// Split splits the checkpoints of a file, which are one after the other with or
// without blank lines between them.
func Split(file []byte) (signed [][]byte) {
	var checkpoint []byte
	ends := false // one has a signature
	for line := range bytes.Lines(file) {
		isSignature := bytes.HasPrefix(line, []byte("— "))
		blank := len(bytes.TrimSpace(line)) == 0
		if ends && !isSignature {
			signed, checkpoint, ends = append(signed, checkpoint), nil, false
		}
		if blank && len(checkpoint) == 0 {
			continue
		}
		checkpoint, ends = append(checkpoint, line...), isSignature
	}
	if len(checkpoint) > 0 {
		signed = append(signed, checkpoint)
	}
	return signed
}

// Whole is Split, without the last where that is being written, or a crash cut it
// off meanwhile.
func Whole(file []byte) (signed [][]byte) {
	signed = Split(file)
	if n := len(signed); n > 0 && isTorn(signed[n-1]) {
		return signed[:n-1]
	}
	return signed
}

// isTorn tells whether a checkpoint has no end.
func isTorn(signed []byte) bool {
	return !bytes.HasSuffix(signed, []byte("\n")) || !bytes.Contains(signed, []byte("\n— "))
}
