package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/cloudevents"
	"commissaire/api"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/projections"
)

// replay is what is asked for, and the views that answer it.
type replay struct {
	source
	until, cluster string
	follow         bool
	paths          []string

	feed    feed
	views   *projections.Views
	records *api.Records
}

func replayCommand() *cobra.Command {
	var r replay
	var format string
	cmd := &cobra.Command{
		Use: "replay [PATH…]", Short: "Show what a service would have answered then, from the log alone",
		Long: `Show what a service would have answered then, or would answer now, from the log
alone: that of a store, also while a service uses it, or of files that were exported,
which must have all events from the first on.

A PATH is what one would GET of the service below /api/v0, with its query: /clusters,
/cluster/NAME, /cluster/NAME/hosts, /cluster/NAME/upgrade, /host/ADDRESS,
/operation/ID, '/operations?cluster=NAME', /networks, …; …/history and …/diff?from=,
too. The answer to one PATH is printed byte for byte as ?at= of the service gives it.
Without any it is that of / (not of a service): clusters, and how many hosts and
operations there are.

With several PATHs, --cluster or --follow each answer is a line of JSON: position and
time of the last event that it follows from, path and answer. What --cluster or
--follow does not find is null; any other PATH at which nothing was is an error.
Position and time are also said on standard error, as is the PATH of the next page
where there is one.

Not answered are credentials, what hosts print, streams of events and what container
managers say: that is not in the log.`,
		Example: `  commissaire replay --until 2026-11-24T14:02 --cluster web
  commissaire replay --until 4711 --file events.ndjson.zst /host/10.0.0.7 | jq .status
  commissaire replay --follow /cluster/web/upgrade`,
	}
	r.flags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&r.until, "until", "", "as of this position, or just before the first event recorded later than this time (RFC 3339, or UTC without a zone)")
	flags.StringVar(&r.cluster, "cluster", "", "of this cluster the record, members, their records, and the latest deploy, upgrade and restart (NAME)")
	flags.BoolVar(&r.follow, "follow", false, "print each answer again whenever another event changes it, until interrupted")
	flags.StringVarP(&format, "output", "o", "json", "json")
	cmd.RunE = func(cmd *cobra.Command, paths []string) error {
		if format != "json" {
			return fmt.Errorf("there is no output %q: use json", format)
		}
		if r.paths = paths; len(paths) == 0 && r.cluster == "" {
			r.paths = []string{"/"}
		}
		err := r.run(cmd)
		switch {
		case cmd.Context().Err() != nil && r.follow:
			return nil // that is how it ends
		case cmd.Context().Err() != nil:
			return errors.New("replay: interrupted")
		case err != nil:
			return fmt.Errorf("replay: %w", err)
		}
		return nil
	}
	return cmd
}

func (r *replay) run(cmd *cobra.Command) (err error) {
	var until *projections.Bound
	switch {
	case r.follow && r.until != "":
		return errors.New("--follow and --until: what was then does not change any more")
	case r.follow && len(r.files) > 0:
		return errors.New("--follow and --file: nothing comes after the end of a file; read the store")
	case r.until != "":
		bound, err := parseBound("until", r.until)
		if err != nil {
			return err
		}
		if err := bound.Check(bound.Position, time.Now()); err != nil {
			return err // a time to come; of a position the log will tell
		}
		until = &bound
	}
	if r.cluster != "" {
		if _, err := domain.ParseName[domain.ClusterName](r.cluster); err != nil {
			return fmt.Errorf("--cluster: %w", err)
		}
	}
	if r.feed, err = r.open(cmd); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.feed.close()) }()
	if files, ok := r.feed.Feed.(*cloudevents.Files); ok {
		r.feed.Feed = files.Whole() // of a part of a log the views would be wrong
	}
	r.views = projections.New()
	r.records = api.NewRecords(api.Config{Views: r.views, Follow: r.again, Entries: r.entries, EventTypes: eventlog.Types(), Now: time.Now})
	if err := r.fold(cmd, until); err != nil {
		return err
	}
	if r.follow {
		return r.watch(cmd)
	}
	return r.print(cmd)
}

// fold applies what is before the bound; nil: all there is. A bound that is not
// reached yet is refused, as by a service that follows this log.
func (r *replay) fold(cmd *cobra.Command, until *projections.Bound) error {
	shown := newProgress(cmd.ErrOrStderr())
	defer shown.end()
	count := shown.count("events")
	n := 0
	for batch, err := range eventlog.UpToHead(cmd.Context(), eventlog.Follow(cmd.Context(), r.feed, 0)) {
		if err != nil {
			return err
		}
		for _, e := range batch {
			if until != nil && until.Before(e) {
				return until.Check(e.Position, time.Now())
			}
			r.views.Apply(e)
		}
		n += len(batch)
		count(n)
	}
	if until != nil {
		return until.Check(r.views.Snapshot().Position, time.Now())
	}
	return nil
}

// print prints all that is asked for. What is asked for by its name must be there.
func (r *replay) print(cmd *cobra.Command) error {
	snapshot := r.views.Snapshot()
	answers, err := r.look(cmd.Context(), snapshot)
	if err != nil {
		return err
	}
	for _, a := range answers {
		if a.missing != nil && (slices.Contains(r.paths, a.Path) || a.Path == "/cluster/"+r.cluster) {
			return fmt.Errorf("%s, as of position %d: %w", a.Path, a.Position, a.missing)
		}
	}
	var out bytes.Buffer
	for _, a := range answers {
		if len(r.paths) == 1 && r.cluster == "" {
			out.Write(a.body)
		} else if err := json.NewEncoder(&out).Encode(a); err != nil {
			return err
		}
	}
	if _, err := cmd.OutOrStdout().Write(out.Bytes()); err != nil {
		return err
	}
	at := "before the first event"
	if snapshot.Position > 0 {
		at = "after the event recorded " + snapshot.Time.UTC().Format(time.RFC3339Nano)
	}
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "as of position %d, %s\n", snapshot.Position, at)
	for _, a := range answers {
		if a.next != "" {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s goes on with '%s'\n", a.Path, a.next)
		}
	}
	return nil
}

// watch prints all that is asked for, and then, event by event, what has another
// answer than before.
func (r *replay) watch(cmd *cobra.Command) error {
	printed := map[string][]byte{}
	changed := func() error {
		answers, err := r.look(cmd.Context(), r.views.Snapshot())
		if err != nil {
			return err
		}
		for _, a := range answers {
			if bytes.Equal(a.body, printed[a.Path]) {
				continue
			}
			printed[a.Path] = a.body
			if err := json.NewEncoder(cmd.OutOrStdout()).Encode(a); err != nil {
				return err
			}
		}
		return nil
	}
	if err := changed(); err != nil {
		return err
	}
	for batch, err := range eventlog.Follow(cmd.Context(), r.feed, r.views.Snapshot().Position) {
		if err != nil {
			return err
		}
		for _, e := range batch {
			r.views.Apply(e)
			if err := changed(); err != nil {
				return err
			}
		}
	}
	return nil
}

// answered is what a path is answered as of a position.
type answered struct {
	Position event.Position   `json:"position"`
	Time     projections.Time `json:"time"` // of the event there
	Path     string           `json:"path"`
	Answer   json.RawMessage  `json:"answer"` // null: it is not there

	body    []byte // the answer as a service gives it
	next    string // the path of the next page; "": there is none
	missing error  // why it is null
}

// look answers all that is asked for.
func (r *replay) look(ctx context.Context, snapshot *projections.Snapshot) ([]answered, error) {
	paths := slices.Clone(r.paths)
	if r.cluster != "" {
		of := "/cluster/" + r.cluster
		paths = append(paths, of, of+"/hosts")
		members, _ := snapshot.Members(domain.ClusterName(r.cluster))
		for _, host := range members {
			paths = append(paths, "/host/"+url.PathEscape(string(host)))
		}
		paths = append(paths, of+"/deploy", of+"/upgrade", of+"/restart")
	}
	var all []answered
	for _, path := range paths {
		a := answered{Position: snapshot.Position, Time: projections.Time{Time: snapshot.Time}, Path: path}
		var err error
		if path == "/" {
			a.body, err = summary(snapshot)
		} else {
			a.body, a.next, err = r.records.Get(ctx, path)
		}
		refusal := (*domain.Refusal)(nil)
		if errors.As(err, &refusal) && refusal.Kind == domain.NotFound {
			a.missing, a.body, err = err, []byte("null\n"), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s, as of position %d: %w", path, snapshot.Position, err)
		}
		a.Answer = a.body
		all = append(all, a)
	}
	return all, nil
}

// summary is what there is, in short.
func summary(snapshot *projections.Snapshot) ([]byte, error) {
	s := struct {
		Clusters   []projections.Cluster `json:"clusters"`
		Hosts      int                   `json:"hosts"`
		Operations int                   `json:"operations"`
	}{Clusters: []projections.Cluster{}}
	for _, name := range snapshot.Clusters() {
		c, _ := snapshot.Cluster(name)
		s.Clusters = append(s.Clusters, c)
	}
	s.Hosts, s.Operations = snapshot.Count()
	text, err := json.Marshal(s)
	return append(text, '\n'), err
}

var errOnce = errors.New("history, diff and ?at= read the log again, and standard input is there once; read a file")

// again reads the log another time.
func (r *replay) again(ctx context.Context, after event.Position) iter.Seq2[[]event.Recorded, error] {
	if slices.Contains(r.files, "-") {
		return func(yield func([]event.Recorded, error) bool) { yield(nil, errOnce) }
	}
	return eventlog.Follow(ctx, r.feed, after)
}

// entries are the lines of the audit trail at these positions, which grow.
func (r *replay) entries(ctx context.Context, at []event.Position) ([]api.HistoryEntry, error) {
	entries := []api.HistoryEntry{}
	if len(at) == 0 {
		return entries, nil
	}
	if slices.Contains(r.files, "-") {
		return nil, errOnce
	}
	if store, ok := r.feed.Feed.(eventlog.Store); ok { // which need not read all in between
		found, err := eventlog.NewLog(store).Entries(ctx, at)
		return allShown(found), err
	}
	for batch, err := range eventlog.UpToHead(ctx, r.feed.Follow(ctx, at[0]-1)) {
		if err != nil {
			return nil, err
		}
		for _, raw := range batch {
			if _, wanted := slices.BinarySearchFunc(at, raw.Position, cmp.Compare[event.Position]); !wanted {
				continue
			}
			e, err := eventlog.Decode(raw)
			if err != nil {
				return nil, err
			}
			entries = append(entries, shown(eventlog.Entry{Recorded: e, Type: raw.Type, Data: raw.Data}))
			if raw.Position == at[len(at)-1] {
				return entries, nil
			}
		}
	}
	return nil, errors.New("the log has not all that was read of it before")
}
