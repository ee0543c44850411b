package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/bcrypt"

	"commissaire/api/authentication"
)

func userCommand() *cobra.Command {
	var file string
	var roles []string
	cmd := &cobra.Command{Use: "user", Short: "Edit a users file for the plugin httpbasicauth"}
	cmd.PersistentFlags().StringVar(&file, "file", "/etc/commissaire/users.json", "the users file")
	edit := func(use, short string, f func(*cobra.Command, map[string]authentication.User, string) error) *cobra.Command {
		one := &cobra.Command{Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1)}
		one.RunE = func(cmd *cobra.Command, args []string) error {
			users, err := readUsers(file)
			if err != nil {
				return err
			}
			if err := f(cmd, users, args[0]); err != nil {
				return err
			}
			text, err := json.MarshalIndent(users, "", "  ")
			if err != nil {
				return fmt.Errorf("write %s: %w", file, err)
			}
			if err := writePrivate(file, string(text)+"\n"); err != nil {
				return fmt.Errorf("write %s: %w", file, err)
			}
			return nil
		}
		cmd.AddCommand(one)
		return one
	}
	add := edit("add", "Add a user; the password is read from standard input", func(cmd *cobra.Command, users map[string]authentication.User, name string) error {
		if _, known := users[name]; known || name == "" || strings.Contains(name, ":") {
			return fmt.Errorf("user %q is there already, or is no name: it may not be empty or have a colon", name)
		}
		user := authentication.User{}
		for _, role := range roles {
			if !authentication.KnownRole(authentication.Role(role)) {
				return fmt.Errorf("there is no role %q: use viewer, operator, auditor, admin or join", role)
			}
			user.Roles = append(user.Roles, authentication.Role(role))
		}
		var err error
		user.Hash, err = readPassword(cmd.InOrStdin())
		users[name] = user
		return err
	})
	add.Flags().StringSliceVar(&roles, "role", []string{"viewer"}, "viewer, operator, auditor, admin or join; may be repeated")
	edit("password", "Change a password; it is read from standard input", func(cmd *cobra.Command, users map[string]authentication.User, name string) error {
		user, known := users[name]
		if !known {
			return fmt.Errorf("there is no user %q", name)
		}
		var err error
		user.Hash, err = readPassword(cmd.InOrStdin())
		users[name] = user
		return err
	})
	edit("remove", "Remove a user", func(_ *cobra.Command, users map[string]authentication.User, name string) error {
		if _, known := users[name]; !known {
			return fmt.Errorf("there is no user %q", name)
		}
		delete(users, name)
		return nil
	})
	cmd.AddCommand(&cobra.Command{Use: "list", Short: "List users and roles", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		users, err := readUsers(file)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(users)) {
			_, _ = fmt.Fprintln(cmd.OutOrStdout(), name, users[name].Roles)
		}
		return nil
	}})
	return cmd
}

func readUsers(file string) (map[string]authentication.User, error) {
	users := map[string]authentication.User{}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return users, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	if err := json.Unmarshal(text, &users); err != nil {
		return nil, fmt.Errorf("read users from %s: %w", file, err)
	}
	return users, nil
}

// readPassword reads a line and returns its bcrypt hash.
func readPassword(in io.Reader) (string, error) {
	line, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	password := strings.TrimRight(line, "\r\n")
	if len(password) < 8 || len(password) > 72 {
		return "", errors.New("the password must have from 8 to 72 bytes")
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return "", fmt.Errorf("hash the password: %w", err)
	}
	return string(hash), nil
}
