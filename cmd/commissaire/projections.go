package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"commissaire/adapters/snapshots"
	"commissaire/cmd/internal/client"
	"commissaire/cmd/internal/service"
	"commissaire/cmd/internal/terminal"
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

// views are whose projections a command is about: those of a running service, or of a
// store's snapshots.
type views struct {
	from    source
	service string
	output
}

func (v *views) flags(cmd *cobra.Command) {
	v.from.configFlag(cmd)
	v.from.storeFlag(cmd)
	cmd.Flags().StringVar(&v.service, "service", "", "a file with endpoint, username and password of a running service: ask that")
	v.flag(cmd, "text", "json")
}

// run does one of two things.
func (v *views) run(live func(context.Context, *client.Client) error, offline func(context.Context, *service.Offline) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		return failed(cmd.Context(), "projections "+cmd.Name(), v.runOne(cmd, live, offline), "; what was there stays")
	}
}

func (v *views) runOne(cmd *cobra.Command, live func(context.Context, *client.Client) error, offline func(context.Context, *service.Offline) error) (err error) {
	if err := v.check(); err != nil {
		return err
	}
	if v.service != "" {
		if v.from.store != "" {
			return errors.New("--service and --store: name one of them")
		}
		c, err := client.Read(v.service)
		if err != nil {
			return fmt.Errorf("--service: %w", err)
		}
		return live(cmd.Context(), c)
	}
	c, err := v.from.load(cmd)
	if err != nil {
		return err
	}
	location, err := v.from.location(cmd)
	if err != nil {
		return err
	}
	of, err := service.OpenOffline(cmd.Context(), c.Snapshots, location, warnings(cmd))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, of.Close()) }()
	return offline(cmd.Context(), of)
}

func listProjectionsCommand() *cobra.Command {
	var v views
	cmd := &cobra.Command{Use: "list", Short: "List views, snapshots and rebuilds", Args: cobra.NoArgs}
	v.flags(cmd)
	cmd.RunE = v.run(
		func(ctx context.Context, c *client.Client) error {
			all, err := client.Get[shownProjections](ctx, c, "/projections")
			if err != nil {
				return err
			}
			return all.print(cmd.OutOrStdout(), v.format)
		},
		func(_ context.Context, of *service.Offline) error {
			all, err := of.List()
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
	Snapshots []snapshots.Info     `json:"snapshots"`
	Rebuild   *projections.Rebuild `json:"rebuild,omitzero"`
}

func (p shownProjections) print(out io.Writer, format string) error {
	if format == "json" {
		return printJSON(out, p)
	}
	table := terminal.NewTable(out)
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
		_, _ = fmt.Fprintf(table, "\n%s by %s: %s, %s\n", r.Kind, terminal.Escape(r.Actor), r.State, pace(*r))
		if r.Different != "" || r.Error != "" {
			_, _ = fmt.Fprintln(table, terminal.Escape(r.Different+r.Error))
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
		func(ctx context.Context, c *client.Client) error {
			done, err := refold(ctx, c, projections.KindRebuild)
			if err != nil {
				return err
			}
			return v.report(cmd.OutOrStdout(), done, "what was served was what history says", "what was served was not what history says, and now is")
		},
		func(ctx context.Context, of *service.Offline) error {
			progress := terminal.NewProgress(os.Stderr)
			done, err := of.Rebuild(ctx, progress.Count("events folded"))
			progress.End()
			if err != nil {
				return err
			}
			return v.report(cmd.OutOrStdout(), done, "the next start goes on from there", "")
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
		func(ctx context.Context, c *client.Client) error {
			done, err := refold(ctx, c, projections.KindVerify)
			if err != nil {
				return err
			}
			return v.judge(cmd.OutOrStdout(), done, "what is served")
		},
		func(ctx context.Context, of *service.Offline) error {
			progress := terminal.NewProgress(os.Stderr)
			done, pos, err := of.Verify(ctx, progress.Count("events folded"))
			progress.End()
			if err != nil {
				return err
			}
			return v.judge(cmd.OutOrStdout(), done, fmt.Sprintf("the snapshot at position %d", pos))
		})
	return cmd
}

// judge tells of a comparison, and fails where there is a difference.
func (v *views) judge(out io.Writer, done projections.Rebuild, what string) error {
	if err := v.report(out, done, what+" is what history says", what+" is not what history says"); err != nil {
		return err
	}
	if done.Different != "" {
		return fmt.Errorf("%s is not what history says", what)
	}
	return nil
}

func (v *views) report(out io.Writer, done projections.Rebuild, right, wrong string) error {
	if done.Different != "" {
		right = wrong + ": " + terminal.Escape(done.Different)
	}
	return v.print(out, done, fmt.Sprintf("folded %s; %s\n", pace(done), right))
}

// refold has a service fold the log afresh, and shows how far it is. When ctx ends
// before, it is cancelled.
func refold(ctx context.Context, c *client.Client, kind string) (projections.Rebuild, error) {
	path := "/projections/all/"
	text, _, err := c.Do(ctx, http.MethodPut, path+kind, nil, nil)
	if err != nil {
		return projections.Rebuild{}, err
	}
	var state projections.Rebuild
	if err := client.Parse(path+kind, text, &state); err != nil {
		return state, err
	}
	bar := terminal.NewProgress(os.Stderr)
	defer bar.End()
	for tick := time.NewTicker(200 * time.Millisecond); state.State == projections.Folding; {
		bar.Count(fmt.Sprintf("of %d events folded, %.0f/s, %ds left", state.Of, state.PerSecond, state.Left))(int(state.Events))
		select {
		case <-tick.C:
			all, err := client.Get[shownProjections](ctx, c, "/projections")
			if err != nil && ctx.Err() == nil {
				return state, err
			}
			if all.Rebuild != nil {
				state = *all.Rebuild
			}
		case <-ctx.Done():
			ending, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer stop()
			_, _, err := c.Do(ending, http.MethodDelete, path+projections.KindRebuild, nil, nil)
			return state, errors.Join(ctx.Err(), err)
		}
	}
	switch state.State {
	case projections.Cancelled:
		return state, errors.New("it was cancelled")
	case projections.Failed:
		return state, fmt.Errorf("the service could not: %s", state.Error)
	}
	return state, nil
}
