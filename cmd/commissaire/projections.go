package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/snapshots"
	"commissaire/projections"
)

func projectionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "projections", Short: "List, rebuild and verify what is served",
		Long: `What GET serves is folded from the log: views of hosts, clusters, networks, container
managers, operations and history, all at one position. They can be folded again at any
time.

With --service, a file as serve --dev writes to var/commctl.json (endpoint, username,
password), they are those of a running service, which goes on serving meanwhile.
Without, they are the snapshot in the store's directory, from which a service that
starts goes on.`,
	}
	cmd.AddCommand(listProjectionsCommand(), rebuildCommand(), verifyProjectionsCommand())
	return cmd
}

// views are whose projections it is about.
type views struct {
	from    source
	service string
	format  string
}

func (v *views) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&v.from.config, "config", "", "configuration file; - is standard input (default "+defaultConfigFile+")")
	flags.StringVar(&v.from.store, "store", "", "the store: sqlite:DIR or esdb://… (default the configured one)")
	flags.StringVar(&v.service, "service", "", "a file with endpoint, username and password of a running service: ask that")
	flags.StringVarP(&v.format, "output", "o", "text", "text or json")
}

// run does one of two things.
func (v *views) run(live func(context.Context, *client) error, offline func(*cobra.Command, snapshotsOf) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) (err error) {
		defer func() {
			switch {
			case err != nil && cmd.Context().Err() != nil:
				err = fmt.Errorf("projections %s: interrupted; what was there stays", cmd.Name())
			case err != nil:
				err = fmt.Errorf("projections %s: %w", cmd.Name(), err)
			}
		}()
		if v.format != "text" && v.format != "json" {
			return fmt.Errorf("there is no output %q: use text or json", v.format)
		}
		if v.service != "" {
			if v.from.store != "" {
				return errors.New("--service and --store: name one of them")
			}
			c, err := clientOf(v.service)
			if err != nil {
				return err
			}
			return live(cmd.Context(), c)
		}
		of, err := v.open(cmd)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, of.log.close()) }()
		return offline(cmd, of)
	}
}

// snapshotsOf is the snapshots of a log.
type snapshotsOf struct {
	log  feed
	kept *snapshots.Store
}

func (v *views) open(cmd *cobra.Command) (of snapshotsOf, err error) {
	config, err := v.from.load(cmd)
	if err != nil {
		return of, err
	}
	name, err := v.from.storeName(cmd)
	if err != nil {
		return of, err
	}
	if of.kept, err = openSnapshots(config.Snapshots, name, errorsOnly(cmd)); err != nil {
		return of, err
	}
	if of.kept == nil {
		return of, errors.New("no snapshots are kept with this store: set snapshots.dir, or ask a running service (--service)")
	}
	of.log, err = openFeed(cmd.Context(), name, errorsOnly(cmd))
	return of, err
}

// fold folds the whole log into all of the views that do not have it yet.
func (of snapshotsOf) fold(ctx context.Context, into ...*projections.Views) (folded projections.Rebuild, err error) {
	bar := newProgress(os.Stderr)
	defer bar.end()
	count, began := bar.count("events folded"), time.Now()
	for batch, err := range eventlog.UpToHead(ctx, eventlog.Follow(ctx, of.log, 0)) {
		if err != nil {
			return folded, err
		}
		for _, views := range into {
			for _, r := range batch {
				views.Apply(r)
			}
		}
		folded.Events += uint64(len(batch))
		count(int(folded.Events))
	}
	folded.State, folded.StartedAt, folded.FinishedAt = projections.Done, projections.Time{Time: began}, &projections.Time{Time: time.Now()}
	folded.PerSecond = float64(folded.Events) / time.Since(began).Seconds()
	return folded, nil
}

func listProjectionsCommand() *cobra.Command {
	var v views
	cmd := &cobra.Command{Use: "list", Short: "List views, snapshots and rebuilds", Args: cobra.NoArgs}
	v.flags(cmd)
	cmd.RunE = v.run(
		func(ctx context.Context, c *client) error {
			all, err := fetch[shownProjections](ctx, c, "/projections")
			if err != nil {
				return err
			}
			return all.print(cmd.OutOrStdout(), v.format)
		},
		func(_ *cobra.Command, of snapshotsOf) error {
			all, err := of.kept.List()
			if err != nil {
				return err
			}
			return shownProjections{Snapshots: all}.print(cmd.OutOrStdout(), v.format)
		})
	return cmd
}

// shownProjections is what GET /projections answers.
type shownProjections struct {
	Position  uint64               `json:"position,omitzero"`
	Time      projections.Time     `json:"time,omitzero"`
	Events    uint64               `json:"events,omitzero"`
	Views     []projections.View   `json:"views,omitzero"`
	Snapshots []snapshots.Kept     `json:"snapshots"`
	Rebuild   *projections.Rebuild `json:"rebuild,omitzero"`
}

func (p shownProjections) print(out io.Writer, format string) error {
	if format == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(p)
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(p.Views) > 0 {
		_, _ = fmt.Fprintf(table, "VIEW\tRECORDS\n") // Flush says whether it could be written
	}
	for _, view := range p.Views {
		_, _ = fmt.Fprintf(table, "%s\t%d\n", view.Name, view.Records)
	}
	if len(p.Views) > 0 {
		_, _ = fmt.Fprintf(table, "\nall at position %d, %s, after %d events\n\n", p.Position, p.Time.UTC().Format(time.RFC3339), p.Events)
	}
	_, _ = fmt.Fprintln(table, "SNAPSHOT AT\tBYTES\tWRITTEN")
	for _, k := range p.Snapshots {
		_, _ = fmt.Fprintf(table, "%d\t%d\t%s\n", k.Position, k.Size, k.Time.UTC().Format(time.RFC3339))
	}
	if r := p.Rebuild; r != nil {
		_, _ = fmt.Fprintf(table, "\n%s by %s: %s, %s\n", r.Kind, harmless(r.Actor), r.State, pace(*r))
		if r.Different != "" || r.Error != "" {
			_, _ = fmt.Fprintln(table, harmless(r.Different+r.Error))
		}
	}
	return table.Flush()
}

// pace is how far a fold is, and how fast.
func pace(r projections.Rebuild) string {
	text := fmt.Sprintf("%d events, %.0f/s", r.Events, r.PerSecond)
	if r.State == projections.Folding {
		text += fmt.Sprintf(", %ds left", r.Left)
	}
	return text
}

func rebuildCommand() *cobra.Command {
	var v views
	cmd := &cobra.Command{
		Use: "rebuild", Short: "Fold the log afresh, and serve what that comes to", Args: cobra.NoArgs,
		Long: `Fold the log afresh. A running service (--service) serves what it has until that is
done, and then exchanges it in one step; nothing is done on any host again. Ctrl-C
cancels it, at any moment. Without --service a snapshot is written, from which the
next start goes on.

All views are folded, because they are one cut through history and read each other.`,
	}
	v.flags(cmd)
	cmd.RunE = v.run(
		func(ctx context.Context, c *client) error {
			done, err := refold(ctx, c, projections.KindRebuild)
			if err != nil {
				return err
			}
			return v.tell(cmd.OutOrStdout(), done, "what was served was what history says", "what was served was not what history says, and now is")
		},
		func(cmd *cobra.Command, of snapshotsOf) error {
			fresh := projections.New()
			done, err := of.fold(cmd.Context(), fresh)
			if err != nil {
				return err
			}
			if now := fresh.Snapshot(); now.Position > 0 {
				if err := of.kept.Save(now.Position, now.ID, now.Write); err != nil {
					return err
				}
			}
			return v.tell(cmd.OutOrStdout(), done, "the next start goes on from there", "")
		})
	return cmd
}

func verifyProjectionsCommand() *cobra.Command {
	var v views
	cmd := &cobra.Command{
		Use: "verify", Short: "Fold the log afresh, and compare that with what is served", Args: cobra.NoArgs,
		Long: `Fold the log afresh and compare, record by record, what that comes to with what a
running service serves (--service), or with the latest snapshot. The first difference
is named, and the exit status is 1. What is served stays: rebuild makes it right.`,
	}
	v.flags(cmd)
	cmd.RunE = v.run(
		func(ctx context.Context, c *client) error {
			done, err := refold(ctx, c, projections.KindVerify)
			if err != nil {
				return err
			}
			return v.judge(cmd.OutOrStdout(), done, "what is served")
		},
		func(cmd *cobra.Command, of snapshotsOf) error {
			all, err := of.kept.List()
			if err != nil {
				return err
			}
			if len(all) == 0 {
				return errors.New("there is no snapshot to compare with")
			}
			var kept *projections.Views
			if err := of.kept.Read(all[0], viewsOf(cmd.Context(), of.log, &kept)); err != nil {
				return err
			}
			fresh := projections.New()
			done, err := of.fold(cmd.Context(), fresh, kept)
			if err != nil {
				return err
			}
			done.Different = projections.Difference(kept.Snapshot(), fresh.Snapshot())
			return v.judge(cmd.OutOrStdout(), done, fmt.Sprintf("the snapshot at position %d", all[0].Position))
		})
	return cmd
}

// judge tells of a comparison, and fails where there is a difference.
func (v *views) judge(out io.Writer, done projections.Rebuild, what string) error {
	if err := v.tell(out, done, what+" is what history says", what+" is not what history says"); err != nil {
		return err
	}
	if done.Different != "" {
		return fmt.Errorf("%s is not what history says", what)
	}
	return nil
}

func (v *views) tell(out io.Writer, done projections.Rebuild, right, wrong string) error {
	if v.format == "json" {
		return json.NewEncoder(out).Encode(done)
	}
	if done.Different != "" {
		right = wrong + ": " + harmless(done.Different)
	}
	_, err := fmt.Fprintf(out, "folded %s; %s\n", pace(done), right)
	return err
}

// refold has a service fold the log afresh, and shows how far it is. When ctx ends
// before, it is cancelled.
func refold(ctx context.Context, c *client, kind string) (projections.Rebuild, error) {
	path := "/projections/all/"
	text, _, err := c.succeed(ctx, http.MethodPut, path+kind, nil, nil)
	if err != nil {
		return projections.Rebuild{}, err
	}
	var now projections.Rebuild
	if err := parse(path+kind, text, &now); err != nil {
		return now, err
	}
	bar := newProgress(os.Stderr)
	defer bar.end()
	for tick := time.NewTicker(200 * time.Millisecond); now.State == projections.Folding; {
		bar.count(fmt.Sprintf("of %d events folded, %.0f/s, %ds left", now.Of, now.PerSecond, now.Left))(int(now.Events))
		select {
		case <-tick.C:
			all, err := fetch[shownProjections](ctx, c, "/projections")
			if err != nil && ctx.Err() == nil {
				return now, err
			}
			if all.Rebuild != nil {
				now = *all.Rebuild
			}
		case <-ctx.Done():
			ending, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer stop()
			_, _, err := c.succeed(ending, http.MethodDelete, path+projections.KindRebuild, nil, nil)
			return now, errors.Join(ctx.Err(), err)
		}
	}
	switch now.State {
	case projections.Cancelled:
		return now, errors.New("it was cancelled")
	case projections.Failed:
		return now, fmt.Errorf("the service could not: %s", now.Error)
	}
	return now, nil
}

// clientOf is a client as a file describes it.
func clientOf(path string) (*client, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--service: %w", err)
	}
	var file struct{ Endpoint, Username, Password string }
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("--service: %s must have a JSON object with endpoint, username and password: %w", path, err)
	}
	if !strings.Contains(file.Endpoint, "://") {
		return nil, fmt.Errorf("--service: the endpoint in %s must be a URL, as in https://commissaire.example.com", path)
	}
	return &client{endpoint: strings.TrimSuffix(file.Endpoint, "/"), user: file.Username, password: file.Password, transport: http.DefaultTransport}, nil
}
