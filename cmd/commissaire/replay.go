package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"commissaire/cmd/internal/archive"
	"commissaire/cmd/internal/replay"
	"commissaire/cmd/internal/terminal"
	"commissaire/domain"
	"commissaire/projections"
)

func replayCommand() *cobra.Command {
	var q question
	var o output
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
	q.flags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&q.until, "until", "", "as of this position, or just before the first event recorded later than this time (RFC 3339, or UTC without a zone)")
	flags.StringVar(&q.cluster, "cluster", "", "of this cluster the record, members, their records, and the latest deploy, upgrade and restart (NAME)")
	flags.BoolVar(&q.follow, "follow", false, "print each answer again whenever another event changes it, until interrupted")
	o.flag(cmd, "json")
	cmd.RunE = func(cmd *cobra.Command, paths []string) error {
		if err := o.check(); err != nil {
			return err
		}
		if q.paths = paths; len(paths) == 0 && q.cluster == "" {
			q.paths = []string{"/"}
		}
		err := q.run(cmd)
		if cmd.Context().Err() != nil && q.follow {
			return nil // that is how it ends
		}
		if err == nil {
			err = cmd.Context().Err()
		}
		return failed(cmd.Context(), "replay", err, "")
	}
	return cmd
}

// question is what is asked of a log.
type question struct {
	source
	until, cluster string
	follow         bool
	paths          []string
}

func (q *question) run(cmd *cobra.Command) (err error) {
	until, err := q.bound()
	if err != nil {
		return err
	}
	log, err := q.open(cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	r := replay.New(log.Feed, slices.Contains(q.files, "-"))
	progress := terminal.NewProgress(cmd.ErrOrStderr())
	err = r.Fold(cmd.Context(), until, progress.Count("events"))
	progress.End()
	switch {
	case err != nil:
		return err
	case q.follow:
		return q.watch(cmd, r)
	}
	return q.print(cmd, r)
}

// bound is until when the log is read, nil: to its end. It refuses what cannot be asked.
func (q *question) bound() (until *projections.Bound, err error) {
	switch {
	case q.follow && q.until != "":
		return nil, errors.New("--follow and --until: what was then does not change any more")
	case q.follow && len(q.files) > 0:
		return nil, errors.New("--follow and --file: nothing comes after the end of a file; read the store")
	case q.until != "":
		bound, err := archive.ParseBound("until", q.until)
		if err != nil {
			return nil, err
		}
		if err := bound.Check(bound.Position, time.Now()); err != nil {
			return nil, err // a time to come; of a position the log will tell
		}
		until = &bound
	}
	if q.cluster != "" {
		if _, err := domain.ParseName[domain.ClusterName](q.cluster); err != nil {
			return nil, fmt.Errorf("--cluster: %w", err)
		}
	}
	return until, nil
}

// print prints all that is asked for. What is asked for by its name must be there.
func (q *question) print(cmd *cobra.Command, r *replay.Replay) error {
	answers, err := r.Answers(cmd.Context(), q.paths, q.cluster)
	if err != nil {
		return err
	}
	for _, a := range answers {
		if a.Missing != nil && (slices.Contains(q.paths, a.Path) || a.Path == replay.ClusterPath(q.cluster)) {
			return fmt.Errorf("%s, as of position %d: %w", a.Path, a.Position, a.Missing)
		}
	}
	var out bytes.Buffer
	for _, a := range answers {
		if len(q.paths) == 1 && q.cluster == "" {
			out.Write(a.Body)
		} else if err := json.NewEncoder(&out).Encode(a); err != nil {
			return err
		}
	}
	if _, err := cmd.OutOrStdout().Write(out.Bytes()); err != nil {
		return err
	}
	snapshot, when := r.Snapshot(), "before the first event"
	if snapshot.Position > 0 {
		when = "after the event recorded " + snapshot.Time.UTC().Format(time.RFC3339Nano)
	}
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "as of position %d, %s\n", snapshot.Position, when)
	for _, a := range answers {
		if a.Next != "" {
			_, _ = fmt.Fprintf(cmd.ErrOrStderr(), "%s goes on with '%s'\n", a.Path, a.Next)
		}
	}
	return nil
}

// watch prints all that is asked for, and then, event by event, what has another answer
// than before.
func (q *question) watch(cmd *cobra.Command, r *replay.Replay) error {
	printed := map[string][]byte{}
	printChanged := func() error {
		answers, err := r.Answers(cmd.Context(), q.paths, q.cluster)
		if err != nil {
			return err
		}
		for _, a := range answers {
			if bytes.Equal(a.Body, printed[a.Path]) {
				continue
			}
			printed[a.Path] = a.Body
			if err := json.NewEncoder(cmd.OutOrStdout()).Encode(a); err != nil {
				return err
			}
		}
		return nil
	}
	if err := printChanged(); err != nil {
		return err
	}
	return r.Follow(cmd.Context(), printChanged)
}
