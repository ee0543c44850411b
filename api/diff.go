package api

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"

	"commissaire/domain"
	"commissaire/projections"
)

// diff is what became of a thing between two moments.
type diff struct {
	From    moment         `json:"from"`
	To      moment         `json:"to"`
	Changes []fieldChange  `json:"changes"`
	Events  []HistoryEntry `json:"events"` // what was recorded of it in between: by whom, and why
}

// moment is the record of a thing as it was; null where it was not there.
type moment struct {
	Position projections.Position `json:"position"`
	Record   any                  `json:"record"`
}

// fieldChange is a value of the record that is another one, by its dotted name.
type fieldChange struct {
	Field string `json:"field"`
	From  any    `json:"from"`
	To    any    `json:"to"`
}

// getDiff answers with what changed in the record that the path names between
// ?from= and ?to= (the present where it is not given), each as ?at= is, and with
// the events of it in between, a page at a time.
func (s *Server) getDiff(of, key string) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		name, err := subject(r, of, key)
		if err != nil {
			return err
		}
		query := r.URL.Query()
		limit, after, err := paging(query)
		if err != nil {
			return err
		}
		if !query.Has("from") {
			return domain.ErrInvalid.At("from", "say from when: a position, or a time such as 2015-12-17T15:48:18Z")
		}
		present, err := s.snapshot(w, r)
		if err != nil {
			return err
		}
		positions := present.History(of, name)
		if len(positions) == 0 {
			return errNoHistory.With("nothing was ever recorded of %s %q", of, name)
		}
		from, err := s.asOf(r, "from", query.Get("from"))
		if err != nil {
			return err
		}
		to := present
		if query.Has("to") {
			if to, err = s.asOf(r, "to", query.Get("to")); err != nil {
				return err
			}
		}
		if to.Position < from.Position {
			return domain.ErrInvalid.At("to", "is before from")
		}
		d := diff{From: moment{from.Position, record(from, of, name)}, To: moment{to.Position, record(to, of, name)}}
		if d.Changes, err = compare(d.From.Record, d.To.Record); err != nil {
			return err
		}
		positions = between(positions, max(from.Position, projections.Position(after)), to.Position)
		if uint64(len(positions)) > limit {
			positions = positions[:limit]
			next(w, r, uint64(positions[limit-1]))
		}
		if d.Events, err = s.config.Entries(r.Context(), positions); err != nil {
			return err
		}
		return s.answer(w, r, http.StatusOK, d)
	}
}

// between are the positions after from, up to to.
func between(positions []projections.Position, from, to projections.Position) []projections.Position {
	first, found := slices.BinarySearch(positions, from)
	if found {
		first++
	}
	last, found := slices.BinarySearch(positions, to)
	if found {
		last++
	}
	return positions[min(first, last):last]
}

// record is a thing as GET serves it, a cluster with its members; nil where it is
// not there.
func record(snapshot *projections.Snapshot, of, name string) any {
	switch of {
	case projections.OfCluster:
		if c, ok := snapshot.Cluster(domain.ClusterName(name)); ok {
			members, _ := snapshot.Members(c.Name)
			return struct {
				projections.Cluster
				Members []domain.Address `json:"members"`
			}{c, members}
		}
	case projections.OfHost:
		if host, ok := snapshot.Host(domain.Address(name)); ok {
			return host
		}
	case projections.OfOperation:
		if o, ok := snapshot.Operation(domain.OperationID(name)); ok {
			return o
		}
	}
	return nil
}

// compare lists the values that differ, by name. What is not there is null.
func compare(from, to any) ([]fieldChange, error) {
	before, err := values(from)
	if err != nil {
		return nil, err
	}
	after, err := values(to)
	if err != nil {
		return nil, err
	}
	changes := []fieldChange{}
	names := maps.Clone(before)
	maps.Copy(names, after)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if !reflect.DeepEqual(before[name], after[name]) {
			changes = append(changes, fieldChange{name, before[name], after[name]})
		}
	}
	return changes, nil
}

// values are those of a record, by dotted name. A list is one value.
func values(record any) (map[string]any, error) {
	text, err := json.Marshal(record)
	if err != nil {
		return nil, err
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err != nil {
		return nil, err
	}
	flat := map[string]any{}
	var add func(prefix string, object map[string]any)
	add = func(prefix string, object map[string]any) {
		for name, value := range object {
			if nested, ok := value.(map[string]any); ok {
				add(prefix+name+".", nested)
				continue
			}
			flat[prefix+name] = value
		}
	}
	add("", object)
	return flat, nil
}
