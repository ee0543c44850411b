// Package replay answers GET requests from a log alone, as a service would have answered
// them when the log was at a position. It is apart from the service because nothing runs,
// and from archive because nothing is copied.
package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"time"

	"commissaire/adapters/eventlog"
	"commissaire/adapters/eventlog/cloudevents"
	"commissaire/api"
	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/projections"
)

// Replay is a log, and the views of it, which begin empty.
type Replay struct {
	feed    eventlog.Feed
	once    bool // the feed can be read only once
	views   *projections.Views
	records *api.Records
}

// New makes a replay of a log. Of exported files the log must be whole: of a part of it
// the views would be wrong. once says that the feed can be read only once, so that what
// reads it again is refused.
func New(feed eventlog.Feed, once bool) *Replay {
	if files, ok := feed.(*cloudevents.Files); ok {
		feed = files.Whole()
	}
	r := &Replay{feed: feed, once: once, views: projections.New()}
	r.records = api.NewRecords(api.Config{Views: r.views, Follow: r.follow, Entries: r.entries, EventTypes: eventlog.Types(), Now: time.Now})
	return r
}

// Snapshot is the state after the events that were folded.
func (r *Replay) Snapshot() *projections.Snapshot { return r.views.Snapshot() }

// Fold applies what is before the bound; nil: all there is. A bound that is not reached
// yet is refused, as by a service that follows this log. count is called with the number
// of events that were read.
func (r *Replay) Fold(ctx context.Context, until *projections.Bound, count func(int)) error {
	n := 0
	for batch, err := range eventlog.UpToHead(ctx, eventlog.Follow(ctx, r.feed, 0)) {
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

// Follow applies what comes after the events that were folded, and calls applied after
// each, until it fails or ctx ends.
func (r *Replay) Follow(ctx context.Context, applied func() error) error {
	for batch, err := range eventlog.Follow(ctx, r.feed, r.views.Snapshot().Position) {
		if err != nil {
			return err
		}
		for _, e := range batch {
			r.views.Apply(e)
			if err := applied(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Answer is what a path is answered as of a position.
type Answer struct {
	Position event.Position   `json:"position"`
	Time     projections.Time `json:"time"` // of the event there
	Path     string           `json:"path"`
	Answer   json.RawMessage  `json:"answer"` // null: it is not there

	Body    []byte `json:"-"` // the answer as a service gives it
	Next    string `json:"-"` // the path of the next page; "": there is none
	Missing error  `json:"-"` // why Answer is null
}

// Answers answers paths in their order, and then what belongs to a cluster ("": none): its
// record, members, their records, and the latest operation of each kind. What is not there
// is an answer too; any other refusal is an error.
func (r *Replay) Answers(ctx context.Context, paths []string, cluster string) ([]Answer, error) {
	snapshot := r.views.Snapshot()
	paths = slices.Clone(paths)
	if cluster != "" {
		paths = append(paths, clusterPaths(snapshot, cluster)...)
	}
	var all []Answer
	for _, path := range paths {
		a := Answer{Position: snapshot.Position, Time: projections.Time{Time: snapshot.Time}, Path: path}
		var err error
		if path == "/" {
			a.Body, err = summary(snapshot)
		} else {
			a.Body, a.Next, err = r.records.Get(ctx, path)
		}
		if refusal, ok := errors.AsType[*domain.Refusal](err); ok && refusal.Kind == domain.NotFound {
			a.Missing, a.Body, err = err, []byte("null\n"), nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s, as of position %d: %w", path, snapshot.Position, err)
		}
		a.Answer = a.Body
		all = append(all, a)
	}
	return all, nil
}

// ClusterPath is the path of a cluster's record.
func ClusterPath(name string) string { return "/cluster/" + name }

func clusterPaths(snapshot *projections.Snapshot, name string) []string {
	cluster := ClusterPath(name)
	paths := []string{cluster, cluster + "/hosts"}
	members, _ := snapshot.Members(domain.ClusterName(name))
	for _, host := range members {
		paths = append(paths, "/host/"+url.PathEscape(string(host)))
	}
	return append(paths, cluster+"/deploy", cluster+"/upgrade", cluster+"/restart")
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

// follow reads the log another time.
func (r *Replay) follow(ctx context.Context, after event.Position) iter.Seq2[[]event.Recorded, error] {
	if r.once {
		return func(yield func([]event.Recorded, error) bool) { yield(nil, errOnce) }
	}
	return eventlog.Follow(ctx, r.feed, after)
}
