package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"commissaire/adapters/transparency"
	"commissaire/cmd/internal/config"
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
