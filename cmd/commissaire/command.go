package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"commissaire/cmd/internal/config"
)

// settings are the flags by which a command finds its configuration: --config, and flags
// that are keys of the configuration.
type settings struct {
	file   string
	dev    bool
	keys   []string
	loaded *config.Config
}

// configFlag adds --config.
func (s *settings) configFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.file, "config", "", "configuration file; - is standard input (default "+config.DefaultFile+")")
}

// key adds a flag that is a key of the configuration, with text for its value.
func (s *settings) key(cmd *cobra.Command, key, usage string) {
	s.keys = append(s.keys, key)
	cmd.Flags().String(key, "", usage)
}

func (s *settings) boolKey(cmd *cobra.Command, key, usage string) {
	s.keys = append(s.keys, key)
	cmd.Flags().Bool(key, false, usage)
}

func (s *settings) intKey(cmd *cobra.Command, key, usage string) {
	s.keys = append(s.keys, key)
	cmd.Flags().Int(key, 0, usage)
}

// masterKey adds the key that all need who open credentials.
func (s *settings) masterKey(cmd *cobra.Command) {
	s.key(cmd, "credentials.master-key", "file:PATH, env:NAME or exec:COMMAND")
}

// load reads the configuration, once, as standard input can be read only once.
func (s *settings) load(cmd *cobra.Command) (config.Config, error) {
	if s.loaded != nil {
		return *s.loaded, nil
	}
	given := map[string]any{}
	flags := cmd.Flags()
	for _, key := range s.keys {
		if !flags.Changed(key) {
			continue
		}
		switch flags.Lookup(key).Value.Type() {
		case "bool":
			given[key], _ = flags.GetBool(key)
		case "int":
			given[key], _ = flags.GetInt(key)
		default:
			given[key], _ = flags.GetString(key)
		}
	}
	c, err := config.Load(s.file, cmd.InOrStdin(), config.Environment(), given, s.dev)
	if err != nil {
		return config.Config{}, err
	}
	s.loaded = &c
	return c, nil
}

// output is how a command prints what it found.
type output struct {
	format  string
	formats []string
}

// flag adds -o; the first format is the default.
func (o *output) flag(cmd *cobra.Command, formats ...string) {
	o.formats = formats
	cmd.Flags().StringVarP(&o.format, "output", "o", formats[0], strings.Join(formats, " or "))
}

// check refuses a format that there is not.
func (o *output) check() error {
	if slices.Contains(o.formats, o.format) {
		return nil
	}
	return fmt.Errorf("there is no output %q: use %s", o.format, strings.Join(o.formats, " or "))
}

// print prints a value as a line of JSON, or as text.
func (o *output) print(out io.Writer, value any, text string) error {
	if o.format == "json" {
		return json.NewEncoder(out).Encode(value)
	}
	_, err := io.WriteString(out, text)
	return err
}

// printJSON prints a value as JSON on several lines.
func printJSON(out io.Writer, value any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// failed says what was being done when an error happened; where ctx ended, it says that
// it was interrupted, and what that means.
func failed(ctx context.Context, doing string, err error, interrupted string) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errors.New(doing + ": interrupted" + interrupted)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// warnings is a logger of what somebody at a terminal should hear of.
func warnings(cmd *cobra.Command) *slog.Logger {
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}
