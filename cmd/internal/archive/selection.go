package archive

import (
	"context"
	"fmt"
	"slices"

	fast "github.com/go-json-experiment/json"

	"commissaire/adapters/eventlog"
	"commissaire/cmd/internal/config"
	"commissaire/domain/event"
	"commissaire/projections"
)

// Selection is which events are wanted, and whether those that come are waited for. Its
// zero value is all that there are.
type Selection struct {
	Streams, Types []string // none: of all
	After, Until   string   // a position or a time, as projections.ParseBound reads them; "": no bound

	Cluster, Host, Operation string // what the history of these has; "": of all
	Follow                   bool   // go on with what comes
}

// Each calls f with what is selected of events, batch by batch, until it fails or there is
// no more. An empty batch says that it waits for more. A type that there is not and a
// bound that cannot be read are refused before f is called.
func (s Selection) Each(ctx context.Context, from eventlog.Feed, f func([]eventlog.Raw) error) error {
	filter, err := s.filter()
	if err != nil {
		return err
	}
	for batch, err := range from.Follow(ctx, filter.begin) {
		if err != nil {
			return err
		}
		wanted, ended, err := filter.apply(batch)
		if err != nil {
			return err
		}
		if len(wanted) > 0 || len(batch) == 0 {
			if err := f(wanted); err != nil {
				return err
			}
		}
		if ended || len(batch) == 0 && !s.Follow {
			return nil
		}
	}
	return ctx.Err()
}

// filter is a selection that is applied to a log from a position on.
type filter struct {
	Selection
	after, until projections.Bound
	about        map[string]string // name by what is named
	views        *projections.Views
	begin        event.Position
	begun        bool // the lower bound was passed
}

func (s Selection) filter() (*filter, error) {
	for _, name := range s.Types {
		if known := eventlog.Types(); !slices.Contains(known, name) {
			return nil, fmt.Errorf("--type: there is no event of type %q; the nearest is %s", name, config.Nearest(name, known))
		}
	}
	f := &filter{Selection: s, about: map[string]string{}, begun: s.After == ""}
	var err error
	if s.After != "" {
		if f.after, err = ParseBound("after", s.After); err != nil {
			return nil, err
		}
	}
	if s.Until != "" {
		if f.until, err = ParseBound("until", s.Until); err != nil {
			return nil, err
		}
	}
	for kind, name := range map[string]string{projections.OfCluster: s.Cluster, projections.OfHost: s.Host, projections.OfOperation: s.Operation} {
		if name != "" {
			f.about[kind] = name
		}
	}
	f.begin = f.after.Position
	if len(f.about) > 0 {
		f.views, f.begin = projections.New(), 0 // which events are about a thing depends on those before
	}
	return f, nil
}

// apply returns what is selected of a batch, and whether the upper bound was passed.
func (f *filter) apply(batch []eventlog.Raw) (wanted []eventlog.Raw, ended bool, err error) {
	for _, raw := range batch {
		if f.Until != "" && isBefore(f.until, raw) {
			return wanted, true, nil
		}
		if f.views != nil {
			r, err := eventlog.Decode(raw)
			if err != nil {
				return nil, false, err
			}
			f.views.Apply(r)
		}
		f.begun = f.begun || isBefore(f.after, raw)
		if f.begun && f.has(raw) && f.isAbout(raw.Position) {
			wanted = append(wanted, raw)
		}
	}
	return wanted, false, nil
}

func (f *filter) has(raw eventlog.Raw) bool {
	return (len(f.Streams) == 0 || slices.Contains(f.Streams, string(raw.Stream))) && (len(f.Types) == 0 || slices.Contains(f.Types, raw.Type))
}

// isAbout tells whether the histories of all things that are named have an event that was
// just applied.
func (f *filter) isAbout(pos event.Position) bool {
	for kind, name := range f.about {
		history := f.views.Snapshot().History(kind, name)
		if len(history) == 0 || history[len(history)-1] != pos {
			return false
		}
	}
	return true
}

// ParseBound reads a bound; its error names the flag.
func ParseBound(flag, text string) (projections.Bound, error) {
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
		r.Meta = Meta(raw)
	}
	return b.Before(r)
}

// Meta is who, when and why of an event; what cannot be read is left out.
func Meta(raw eventlog.Raw) (meta event.Meta) {
	_ = fast.Unmarshal(raw.Meta, &meta) // verify says what is wrong with it
	return meta
}
