// Bench measures what the service does a second, and prints one table. Clients,
// service and simulated hosts share this machine, so the figures compare with
// each other, within one run, and with nothing else. README.md has those of one
// run, and says what bounds them.
//
//	go run ./test/bench [-only puts,gets,events,fold,rebuild,takeover,verify,merkle,ssh,roll,memory] [-events 1000000]
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// bench is one run: where it works, how long it measures, what it found.
type bench struct {
	dir    string // for stores; on the disk that they are to be measured on
	span   time.Duration
	events int
	table  *tabwriter.Writer
}

var parts = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"puts", (*bench).puts},
	{"gets", (*bench).gets},
	{"events", (*bench).listen},
	{"fold", (*bench).fold},
	{"rebuild", (*bench).rebuild},
	{"takeover", (*bench).takeover},
	{"verify", (*bench).verify},
	{"merkle", (*bench).merkle},
	{"ssh", (*bench).ssh},
	{"roll", (*bench).roll},
	{"memory", (*bench).memory},
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == bareServer {
		serveBare()
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, arguments []string, out io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", "", "parts to run, with commas between them: puts, gets, events, fold, rebuild, takeover, verify, merkle, ssh, roll, memory (default: all)")
	span := flags.Duration("span", 5*time.Second, "how long each rate is measured")
	events := flags.Int("events", 1_000_000, "events in the log that is folded")
	profile := flags.String("cpuprofile", "", "a file for a CPU profile of what runs in this process")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if *profile != "" {
		file, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }() // after the profile's end
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	dir, err := os.MkdirTemp(".", ".bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // nothing of it is wanted
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	b := &bench{dir: dir, span: *span, events: *events, table: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	defer func() { _ = b.table.Flush() }() // to a terminal
	b.row("WHAT", "FIGURE", "AND")
	for _, part := range parts {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), part.name) {
			continue
		}
		if err := part.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

func (b *bench) row(what, figure, and string) {
	_, _ = fmt.Fprintf(b.table, "%s\t%s\t%s\n", what, figure, and)
}

// rate writes a number a second as people read it.
func rate(n int, over time.Duration) string {
	perSecond := int(float64(n) / over.Seconds())
	text := fmt.Sprint(perSecond)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text + "/s"
}

// percentile is the p-th of durations, which it sorts.
func percentile(all []time.Duration, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(len(all)*p/100, len(all)-1)].Round(10 * time.Microsecond)
}
