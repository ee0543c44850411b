package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/spf13/cobra"

	"commissaire/adapters/transparency"
	"commissaire/cmd/internal/archive"
	"commissaire/cmd/internal/config"
	"commissaire/cmd/internal/store"
	"commissaire/cmd/internal/terminal"
)

// verification is what events verify is asked for.
type verification struct {
	from        source
	checkpoints []string // files
	keys        []string // verifier keys, or files with one
	tree        string
	output
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
	v.flag(cmd, "text", "json")
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
	if err := v.check(); err != nil {
		return err
	}
	log, err := v.from.open(cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	files, keys, err := v.trusted(cmd)
	if err != nil {
		return err
	}
	checkpoints, forged, err := archive.ReadCheckpoints(files, keys)
	if err != nil {
		return err
	}
	tree, err := v.openTree(log)
	if err != nil {
		return err
	}
	if tree != nil {
		defer func() { err = errors.Join(err, tree.Discard()) }()
	}
	debug.SetGCPercent(400) // there is much that lives shortly, and nothing else
	progress := terminal.NewProgress(cmd.ErrOrStderr())
	report, err := transparency.Verify(cmd.Context(), log, tree, checkpoints, progress.Count("events verified"))
	progress.End()
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	found := archive.Verified{Report: report, Checkpoints: len(checkpoints), Forged: forged}
	if err := v.print(cmd.OutOrStdout(), found, found.Text()); err != nil {
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

// trusted are the files of checkpoints and the verifier keys that are given, else those
// that are configured. Of exported files nothing but what is given is needed.
func (v *verification) trusted(cmd *cobra.Command) (files, keys []string, err error) {
	files, keys = v.checkpoints, v.keys
	if len(v.from.files) > 0 && (len(files) == 0 || len(keys) > 0) {
		return files, keys, nil
	}
	c, err := v.from.load(cmd)
	if err != nil {
		return nil, nil, err
	}
	if file := c.Log.CheckpointFile; len(files) == 0 && file != "" {
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			files = []string{file}
		}
	}
	if len(files) > 0 && len(keys) == 0 && c.Log.SigningKey != "" {
		key, err := config.ReadSigningKey(cmd.Context(), c.Log.SigningKey)
		if err != nil {
			return nil, nil, err
		}
		keys = []string{key.Verifier()}
	}
	return files, keys, nil
}

// openTree opens the tree that the service kept; nil where there is none.
func (v *verification) openTree(log store.Reader) (*transparency.Tree, error) {
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
