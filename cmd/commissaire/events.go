package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"

	fast "github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/cloudevents"
	"commissaire/adapters/eventlog/sqlite"
	"commissaire/domain/event"
	"commissaire/projections"
)

// feed is events that are read, of a store or of files.
type feed struct {
	eventlog.Feed
	name  string
	dir   string // of the store; "": it has none
	close func() error
}

// openFeed opens the log of a store to read it, also while services use it.
func openFeed(ctx context.Context, name storeName, logger *slog.Logger) (feed, error) {
	switch {
	case name.shared():
		log, err := openTarget(ctx, name, logger)
		if err != nil {
			return feed{}, err
		}
		return feed{Feed: log, name: maskedStore(name.log), close: log.Close}, nil
	case name.kind() == "sqlite":
		open := sqlite.OpenReader
		if isBackup(name.dir()) {
			open = sqlite.OpenBackup
		}
		reader, err := open(ctx, name.dir())
		if err != nil {
			return feed{}, err
		}
		return feed{Feed: reader, name: name.log, dir: name.dir(), close: reader.Close}, nil
	}
	return feed{}, noSuchStore(name)
}

// openTarget opens the log of a store to import into it. It is refused while a
// service uses it, where only one may.
func openTarget(ctx context.Context, name storeName, logger *slog.Logger) (eventlog.Store, error) {
	if name.kind() != "sqlite" && !name.shared() {
		return nil, noSuchStore(name)
	}
	log, err := name.openLog(ctx, logger)
	if err != nil {
		return nil, err
	}
	if err := answers(ctx, log); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	return log, nil
}

func noSuchStore(name storeName) error {
	if name.kind() == "memory" {
		return errors.New("what a store memory: has ends with the service, and no other program can read it")
	}
	return fmt.Errorf("--store must be sqlite:DIR or esdb://…, and %s is neither", name.kind())
}

// source is where the commands of events read from.
type source struct {
	config, store string
	files         []string
	loaded        *Config
}

func (s *source) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.config, "config", "", "configuration file; - is standard input (default "+defaultConfigFile+")")
	cmd.Flags().StringVar(&s.store, "store", "", "the store: sqlite:DIR or esdb://… (default the configured one)")
	cmd.Flags().StringArrayVar(&s.files, "file", nil, "read this file that was exported instead of a store; may be repeated, oldest first; - is standard input")
}

// load reads the configuration.
func (s *source) load(cmd *cobra.Command) (Config, error) {
	if s.loaded != nil { // standard input is there once
		return *s.loaded, nil
	}
	config, err := loadConfig(s.config, cmd.InOrStdin(), environ(), nil, false)
	if err != nil {
		return Config{}, err
	}
	s.loaded = &config
	return config, nil
}

// storeName is the store that was given, else the configured one. Credentials are
// of no interest here.
func (s *source) storeName(cmd *cobra.Command) (storeName, error) {
	config, err := s.load(cmd)
	if err != nil {
		return storeName{}, err
	}
	name := config.storeName()
	if s.store != "" {
		name.log = s.store
	}
	return name, nil
}

func errorsOnly(cmd *cobra.Command) *slog.Logger {
	return slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func (s *source) open(cmd *cobra.Command) (feed, error) {
	if len(s.files) > 0 {
		if s.store != "" {
			return feed{}, errors.New("--file and --store: read one of them")
		}
		return feed{
			Feed: cloudevents.NewFiles(cmd.InOrStdin(), s.files...), name: strings.Join(s.files, ", "),
			close: func() error { return nil },
		}, nil
	}
	name, err := s.storeName(cmd)
	if err != nil {
		return feed{}, err
	}
	return openFeed(cmd.Context(), name, errorsOnly(cmd))
}

func eventsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "events", Short: "Show, export, import and verify what was recorded",
		Long: `Show, export, import and verify what was recorded.

A store is read while the service runs, and keeps it waiting in nothing. A password in
esdb://… need not be an argument: give the store in the configuration, or as
COMMISSAIRE_STORE.`,
	}
	cmd.AddCommand(showCommand(), exportCommand(), importCommand(), verifyCommand(), keyCommand())
	return cmd
}

// selected is which events are wanted, and whether those that come are waited for.
type selected struct {
	streams, types []string
	after, until   string
	about          map[string]*string // by what is named: cluster, host, operation
	follow         bool
}

func (s *selected) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&s.streams, "stream", nil, "of these streams only: roster, watch, host-ID, operation-ID; may be repeated")
	flags.StringSliceVar(&s.types, "type", nil, "of these types only, as HostJoined; may be repeated")
	flags.StringVar(&s.after, "after", "", "begin after this position, or with the first event recorded later than this time")
	flags.StringVar(&s.until, "until", "", "end with this position, or before the first event recorded later than this time")
	flags.BoolVar(&s.follow, "follow", false, "go on with what comes, until interrupted")
	s.about = map[string]*string{}
	for of, what := range map[string]string{projections.OfCluster: "NAME", projections.OfHost: "ADDRESS", projections.OfOperation: "ID"} {
		s.about[of] = flags.String(of, "", "what the history of this "+of+" has ("+what+")")
	}
}

func parseBound(flag, text string) (projections.Bound, error) {
	b, err := projections.ParseBound(text)
	if err != nil {
		return b, fmt.Errorf("--%s: %w", flag, err)
	}
	return b, nil
}

// isBefore tells whether a bound is before an event.
func isBefore(b projections.Bound, raw eventlog.Raw) bool {
	r := event.Recorded{Position: raw.Position}
	if !b.Time.IsZero() {
		r.Meta = recorded(raw)
	}
	return b.Before(r)
}

// recorded is who, when and why of an event; what is not there is left out.
func recorded(raw eventlog.Raw) (meta event.Meta) {
	_ = fast.Unmarshal(raw.Meta, &meta) // verify says what is wrong with it
	return meta
}

// each calls f with what is selected of events, batch by batch, until it fails or
// there is no more. An empty batch says that it waits for more.
func (s *selected) each(ctx context.Context, from eventlog.Feed, f func([]eventlog.Raw) error) error {
	for _, name := range s.types {
		if known := eventlog.Types(); !slices.Contains(known, name) {
			all := map[string]any{}
			for _, one := range known {
				all[one] = nil
			}
			return fmt.Errorf("--type: there is no event of type %q; the nearest is %s", name, nearest(name, all))
		}
	}
	var after, until projections.Bound
	var err error
	if s.after != "" {
		if after, err = parseBound("after", s.after); err != nil {
			return err
		}
	}
	if s.until != "" {
		if until, err = parseBound("until", s.until); err != nil {
			return err
		}
	}
	about := map[string]string{}
	for of, name := range s.about {
		if *name != "" {
			about[of] = *name
		}
	}
	var views *projections.Views
	begin := after.Position
	if len(about) > 0 {
		views, begin = projections.New(), 0 // which events are about a thing depends on those before
	}
	begun := s.after == ""
	for batch, err := range from.Follow(ctx, begin) {
		if err != nil {
			return err
		}
		var wanted []eventlog.Raw
		ended := false
		for _, raw := range batch {
			if ended = s.until != "" && isBefore(until, raw); ended {
				break
			}
			if views != nil {
				r, err := eventlog.Decode(raw)
				if err != nil {
					return err
				}
				views.Apply(r)
			}
			begun = begun || isBefore(after, raw)
			if begun && s.has(raw) && isAbout(views, about, raw.Position) {
				wanted = append(wanted, raw)
			}
		}
		ended = ended || len(batch) == 0 && !s.follow
		if len(wanted) > 0 || len(batch) == 0 {
			if err := f(wanted); err != nil {
				return err
			}
		}
		if ended {
			return nil
		}
	}
	return ctx.Err()
}

func (s *selected) has(raw eventlog.Raw) bool {
	return (len(s.streams) == 0 || slices.Contains(s.streams, string(raw.Stream))) && (len(s.types) == 0 || slices.Contains(s.types, raw.Type))
}

// isAbout tells whether the histories of all things that are named have an event
// that was just applied.
func isAbout(views *projections.Views, about map[string]string, at event.Position) bool {
	for of, name := range about {
		history := views.Snapshot().History(of, name)
		if len(history) == 0 || history[len(history)-1] != at {
			return false
		}
	}
	return true
}

func showCommand() *cobra.Command {
	var from source
	var what selected
	var format string
	cmd := &cobra.Command{
		Use: "show", Short: "Show recorded events, a line each", Args: cobra.NoArgs,
		Long: `Show recorded events, a line each, oldest first. With -o json each is an object as
GET …/history and GET /events have it. A time is RFC 3339.`,
		Example: `  commissaire events show --cluster web --after 2026-03-01T00:00:00Z
  commissaire events show --file events.ndjson.zst --type HostTurnFailed
  commissaire events show --follow -o json`,
	}
	from.flags(cmd)
	what.flags(cmd)
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if format != "table" && format != "json" {
			return fmt.Errorf("there is no output %q: use table or json", format)
		}
		f, err := from.open(cmd)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.close()) }()
		out := bufio.NewWriterSize(cmd.OutOrStdout(), 64<<10)
		if format == "table" {
			_, _ = fmt.Fprintf(out, tableLine, "POSITION", "TIME", "ACTOR", "TYPE", "STREAM", "DATA") // Flush says whether it could be written
		}
		err = what.each(cmd.Context(), f, func(events []eventlog.Raw) error {
			for _, raw := range events {
				meta := recorded(raw)
				if format == "json" {
					line, err := json.Marshal(shown(eventlog.Entry{
						Recorded: event.Recorded{Position: raw.Position, Stream: raw.Stream, Revision: raw.Revision, ID: raw.ID, Meta: meta},
						Type:     raw.Type, Data: raw.Data,
					}))
					if err != nil {
						return fmt.Errorf("show position %d: %w", raw.Position, err)
					}
					_, _ = out.Write(append(line, '\n'))
					continue
				}
				why := ""
				if meta.Reason != "" {
					why = " " + strconv.QuoteToGraphic(meta.Reason)
				}
				_, _ = fmt.Fprintf(out, tableLine, strconv.FormatUint(uint64(raw.Position), 10), meta.Time.UTC().Format("2006-01-02T15:04:05.000"),
					harmless(meta.Actor), harmless(raw.Type), harmless(string(raw.Stream)), harmless(string(raw.Data))+why)
			}
			return out.Flush()
		})
		if what.follow && cmd.Context().Err() != nil {
			return out.Flush() // that is how it ends
		}
		return errors.Join(err, out.Flush())
	}
	return cmd
}

const tableLine = "%8s  %-23s  %-12s  %-20s  %-46s  %s\n"

// harmless is text without what a terminal acts on.
func harmless(text string) string {
	quoted := strconv.QuoteToGraphic(text)
	if inside := quoted[1 : len(quoted)-1]; strings.Contains(inside, `\x`) || strings.Contains(inside, `\u`) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) {
		return strings.ReplaceAll(inside, `\"`, `"`)
	}
	return text
}

func exportCommand() *cobra.Command {
	var from source
	var what selected
	var how string
	cmd := &cobra.Command{
		Use: "export [FILE]", Short: "Write events to a file, or standard output", Args: cobra.MaximumNArgs(1),
		Long: `Write events to a new file, or to standard output: NDJSON, a CloudEvents 1.0 event
in structured JSON a line, compressed if the name ends in .gz or .zst. Data and
metadata are in it byte for byte. Credentials are not part of the log, and not in it.

Only a whole log can be imported and verified. What was recorded since an earlier
export goes into a file of its own, with --after and the last position of that one,
which is printed; import and verify take all files, oldest first. Interrupted, the
file is whole up to the position that is printed.`,
		Example: `  commissaire events export events.ndjson.zst
  commissaire events export --after 4711 more.ndjson.zst
  commissaire events export --host 10.0.0.7 | jq .data`,
	}
	from.flags(cmd)
	what.flags(cmd)
	cmd.Flags().StringVar(&how, "compress", "", "gzip or zstd, whatever the name is")
	cmd.RunE = func(cmd *cobra.Command, arguments []string) (err error) {
		name := "-"
		if len(arguments) > 0 {
			name = arguments[0]
		}
		if how == "" {
			how = string(cloudevents.CompressionOf(name))
		}
		f, err := from.open(cmd)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.close()) }()
		return what.export(cmd, f, name, cloudevents.Compression(how))
	}
	return cmd
}

// export writes what is selected to a new file.
func (s *selected) export(cmd *cobra.Command, from eventlog.Feed, name string, how cloudevents.Compression) (err error) {
	out := cmd.OutOrStdout()
	settled := func() error { return nil }
	n, last := 0, event.Position(0)
	if name != "-" {
		file, openErr := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if openErr != nil {
			return fmt.Errorf("export: %w", openErr)
		}
		out, settled = file, file.Sync
		defer func() {
			_ = file.Close() // it was synced
			if err != nil && n == 0 && cmd.Context().Err() == nil {
				_ = os.Remove(name) // else it would be in the way of the next
			}
		}()
	}
	buffered := bufio.NewWriterSize(out, 256<<10)
	w, err := cloudevents.NewWriter(buffered, how)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	shown := newProgress(cmd.ErrOrStderr())
	count := shown.count("events")
	err = s.each(cmd.Context(), from, func(events []eventlog.Raw) error {
		if len(events) == 0 { // who follows sees all there is
			return errors.Join(w.Flush(), buffered.Flush())
		}
		if err := w.Write(events); err != nil {
			return err
		}
		n, last = n+len(events), events[len(events)-1].Position
		count(n)
		return nil
	})
	shown.end()
	interrupted := cmd.Context().Err() != nil
	if interrupted {
		err = nil
	}
	if err = errors.Join(err, w.Close(), buffered.Flush(), settled()); err != nil {
		return fmt.Errorf("export: after position %d: %w", last, err)
	}
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%d events, the last at position %d\n", n, last)
	if interrupted && !s.follow {
		return fmt.Errorf("export: interrupted; what is missing goes into another file with --after %d", last)
	}
	return nil
}

// imported is what an import did.
type imported struct {
	Events   int `json:"events"`
	Imported int `json:"events_imported"`
}

func importCommand() *cobra.Command {
	var to source
	var format string
	cmd := &cobra.Command{
		Use: "import FILE…", Short: "Record exported events in a store", Args: cobra.MinimumNArgs(1),
		Long: `Record events that were exported in a store, which must be empty, or have the first
of these events and no others. Several files are read one after the other, oldest
first; - is standard input. Stop all services that use the store first.

Order, ids, revisions, times, and every byte of data and metadata are kept;
positions are the store's own. A file that was cut off or damaged, and one that does
not have all events from the first on, is refused with the number of the line, before
anything is recorded; of standard input, what comes before that line is recorded.
Whatever ended it, the same command goes on where it stopped.

Credentials are not in what is exported: what a service needs to reach the hosts must
be there in the store's directory.`,
	}
	cmd.Flags().StringVar(&to.config, "config", "", "configuration file (default "+defaultConfigFile+")")
	cmd.Flags().StringVar(&to.store, "store", "", "the store: sqlite:DIR or esdb://… (default the configured one)")
	cmd.Flags().StringVarP(&format, "output", "o", "text", "text or json")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		if format != "text" && format != "json" {
			return fmt.Errorf("there is no output %q: use text or json", format)
		}
		name, err := to.storeName(cmd)
		if err != nil {
			return err
		}
		shown := newProgress(cmd.ErrOrStderr())
		done, err := importFiles(cmd.Context(), cmd.InOrStdin(), names, func() (eventlog.Store, error) {
			return openTarget(cmd.Context(), name, errorsOnly(cmd))
		}, shown.count("events"))
		shown.end()
		switch {
		case err != nil && cmd.Context().Err() != nil:
			return errors.New("import: interrupted; the same command goes on with it")
		case err != nil:
			return fmt.Errorf("import: %w", err)
		}
		return done.print(cmd.OutOrStdout(), format)
	}
	return cmd
}

func (d imported) print(out io.Writer, format string) error {
	if format == "json" {
		return json.NewEncoder(out).Encode(d)
	}
	_, err := fmt.Fprintf(out, "%d events, %d of them imported now\n", d.Events, d.Imported)
	return err
}

func importFiles(ctx context.Context, stdin io.Reader, names []string, open func() (eventlog.Store, error), count func(int)) (done imported, err error) {
	whole := cloudevents.NewFiles(stdin, names...).Whole()
	if !slices.Contains(names, "-") { // else it could not be read twice
		for _, err := range eventlog.UpToHead(ctx, whole.Follow(ctx, 0)) {
			if err != nil {
				return done, err
			}
		}
	}
	target, err := open()
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	done.Imported, err = eventlog.Copy(ctx, whole, target, func(n int) {
		done.Events = n
		count(n)
	})
	if _, ok := errors.AsType[*eventlog.Difference](err); ok {
		err = fmt.Errorf("the store has events that are not those of the file: %w", err)
	}
	return done, err
}
