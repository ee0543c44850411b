package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gofrs/flock"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/bcrypt"

	"commissaire/api/authentication"
	"commissaire/cmd/internal/files"
	"commissaire/cmd/internal/terminal"
)

// usersFile is the file of the plugin httpbasicauth, to be edited. A service that
// uses it sees every change at once.
type usersFile string

type users map[string]authentication.User

func userCommand() *cobra.Command {
	var file, format string
	var roles []string
	cmd := &cobra.Command{Use: "user", Short: "Edit a users file for the plugin httpbasicauth"}
	cmd.PersistentFlags().StringVar(&file, "file", "/etc/commissaire/users.json", "the users file")
	edit := func(use, short string, f func(*cobra.Command, users, string) error) *cobra.Command {
		one := &cobra.Command{Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1)}
		one.RunE = func(cmd *cobra.Command, args []string) error {
			return usersFile(file).edit(cmd.Context(), func(all users) error { return f(cmd, all, args[0]) })
		}
		cmd.AddCommand(one)
		return one
	}
	add := edit("add", "Add a user; the password is read from the terminal or standard input", func(cmd *cobra.Command, all users, name string) error {
		user := authentication.User{}
		for _, role := range roles {
			if !authentication.KnownRole(authentication.Role(role)) {
				return fmt.Errorf("there is no role %q: use viewer, operator, auditor, admin or join", role)
			}
			user.Roles = append(user.Roles, authentication.Role(role))
		}
		_, known := all[name]
		switch {
		case name == "" || len(name) > 128 || !utf8.ValidString(name) || strings.ContainsRune(name, ':') || strings.ContainsFunc(name, unicode.IsControl):
			return fmt.Errorf("%q is no name: it must have from 1 to 128 bytes, and no colon", name)
		case known:
			return fmt.Errorf("there is a user %q already; commissaire user password changes the password", name)
		case len(user.Roles) == 0:
			return errors.New("--role must name at least one role")
		}
		var err error
		user.Hash, err = readPassword(cmd)
		all[name] = user
		return err
	})
	add.Flags().StringSliceVar(&roles, "role", []string{"viewer"}, "viewer, operator, auditor, admin or join; may be repeated")
	edit("password", "Change a password; it is read from the terminal or standard input", func(cmd *cobra.Command, all users, name string) error {
		user, known := all[name]
		if !known {
			return fmt.Errorf("there is no user %q", name)
		}
		var err error
		user.Hash, err = readPassword(cmd)
		all[name] = user
		return err
	})
	edit("remove", "Remove a user", func(_ *cobra.Command, all users, name string) error {
		if _, known := all[name]; !known {
			return fmt.Errorf("there is no user %q", name)
		}
		delete(all, name)
		return nil
	})
	list := &cobra.Command{Use: "list", Short: "List users and roles", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		all, err := usersFile(file).read()
		if err != nil {
			return err
		}
		return all.print(cmd.OutOrStdout(), format)
	}}
	list.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	cmd.AddCommand(list)
	return cmd
}

// print shows who there is and what they may, without the hashes.
func (all users) print(out io.Writer, format string) error {
	type row struct {
		Name  string                `json:"name"`
		Roles []authentication.Role `json:"roles"`
	}
	rows := []row{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		rows = append(rows, row{name, all[name].Held()})
	}
	switch format {
	case "json":
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(rows)
	case "table":
		table := terminal.NewTable(out)
		_, _ = fmt.Fprintln(table, "NAME\tROLES") // Flush says whether it could be written
		for _, r := range rows {
			_, _ = fmt.Fprintf(table, "%s\t%s\n", r.Name, strings.Trim(fmt.Sprint(r.Roles), "[]"))
		}
		return table.Flush()
	default:
		return fmt.Errorf("there is no output %q: use table or json", format)
	}
}

// read gives the users; none where there is no file.
func (f usersFile) read() (users, error) {
	all := users{}
	text, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read users: %w", err)
	}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("read users from %s: %w", f, err)
	}
	return all, nil
}

// edit changes the users, one after the other where several do so. The file keeps
// its owner and mode, but that others than its group may not read it; a new one
// is for its owner alone. Where change fails, nothing changes.
func (f usersFile) edit(ctx context.Context, change func(users) error) (err error) {
	path := string(f)
	if led, err := filepath.EvalSymlinks(path); err == nil {
		path = led
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write users: %w", err)
	}
	lock := flock.New(path+".lock", flock.SetPermissions(0o600))
	if _, err := lock.TryLockContext(ctx, 20*time.Millisecond); err != nil {
		return fmt.Errorf("lock %s: %w", f, err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	all, err := f.read()
	if err != nil {
		return err
	}
	if err := change(all); err != nil {
		return err
	}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", f, err)
	}
	before, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", f, err)
	}
	if err := files.Replace(path, string(text)+"\n", before); err != nil {
		return fmt.Errorf("write %s: %w", f, err)
	}
	return nil
}

// readPassword reads a password and returns its bcrypt hash.
func readPassword(cmd *cobra.Command) (string, error) {
	password, err := terminal.ReadPassword(cmd.Context(), cmd.InOrStdin(), cmd.ErrOrStderr())
	if err != nil {
		return "", err
	}
	if len(password) < 8 || len(password) > 72 {
		return "", errors.New("the password must have from 8 to 72 bytes")
	}
	hash, err := bcrypt.GenerateFromPassword(password, bcrypt.DefaultCost)
	if err != nil {
		return "", fmt.Errorf("hash the password: %w", err)
	}
	return string(hash), nil
}
