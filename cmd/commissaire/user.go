package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"commissaire/api/authentication"
	"commissaire/cmd/internal/terminal"
	"commissaire/cmd/internal/users"
)

func userCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{Use: "user", Short: "Edit a users file for the plugin httpbasicauth"}
	cmd.PersistentFlags().StringVar(&file, "file", "/etc/commissaire/users.json", "the users file")
	edit := func(use, short string, change func(*cobra.Command, users.Users, string) error) *cobra.Command {
		return &cobra.Command{
			Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return users.File(file).Edit(cmd.Context(), func(all users.Users) error { return change(cmd, all, args[0]) })
			},
		}
	}
	var roles []string
	add := edit("add", "Add a user; the password is read from the terminal or standard input", func(cmd *cobra.Command, all users.Users, name string) error {
		return addUser(cmd, all, name, roles)
	})
	add.Flags().StringSliceVar(&roles, "role", []string{"viewer"}, "viewer, operator, auditor, admin or join; may be repeated")
	cmd.AddCommand(add,
		edit("password", "Change a password; it is read from the terminal or standard input", changePassword),
		edit("remove", "Remove a user", removeUser),
		listUsersCommand(&file))
	return cmd
}

func addUser(cmd *cobra.Command, all users.Users, name string, roles []string) (err error) {
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
	user.Hash, err = readPassword(cmd)
	all[name] = user
	return err
}

func changePassword(cmd *cobra.Command, all users.Users, name string) (err error) {
	user, known := all[name]
	if !known {
		return fmt.Errorf("there is no user %q", name)
	}
	user.Hash, err = readPassword(cmd)
	all[name] = user
	return err
}

func removeUser(_ *cobra.Command, all users.Users, name string) error {
	if _, known := all[name]; !known {
		return fmt.Errorf("there is no user %q", name)
	}
	delete(all, name)
	return nil
}

func listUsersCommand(file *string) *cobra.Command {
	var o output
	cmd := &cobra.Command{Use: "list", Short: "List users and roles", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		all, err := users.File(*file).Read()
		if err != nil {
			return err
		}
		return printUsers(cmd.OutOrStdout(), all, o.format)
	}}
	o.flag(cmd, "table", "json")
	return cmd
}

// printUsers shows users and roles, without the hashes.
func printUsers(out io.Writer, all users.Users, format string) error {
	type row struct {
		Name  string                `json:"name"`
		Roles []authentication.Role `json:"roles"`
	}
	rows := []row{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		rows = append(rows, row{name, all[name].Held()})
	}
	if format == "json" {
		return printJSON(out, rows)
	}
	table := terminal.NewTable(out)
	_, _ = fmt.Fprintln(table, "NAME\tROLES") // Flush says whether it could be written
	for _, r := range rows {
		_, _ = fmt.Fprintf(table, "%s\t%s\n", r.Name, strings.Trim(fmt.Sprint(r.Roles), "[]"))
	}
	return table.Flush()
}

// readPassword reads a password and returns its hash.
func readPassword(cmd *cobra.Command) (string, error) {
	password, err := terminal.ReadPassword(cmd.Context(), cmd.InOrStdin(), cmd.ErrOrStderr())
	if err != nil {
		return "", err
	}
	return users.Hash(password)
}
