package api

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"commissaire/domain"
	"commissaire/projections"
)

// getHistory answers with the audit trail of what the path names, oldest first,
// a page at a time: those events that ?type= (as of GET /events), ?actor=, ?from=
// and ?to= (each as ?at= is) select. It is JSON, CSV or one JSON
// object a line, as Accept says.
func (s *Server) getHistory(of, key string) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		name, err := subject(r, of, key)
		if err != nil {
			return err
		}
		if err := presentOnly(r); err != nil {
			return err
		}
		limit, after, err := paging(r.URL.Query())
		if err != nil {
			return err
		}
		snapshot, err := s.snapshot(w, r)
		if err != nil {
			return err
		}
		positions := snapshot.History(of, name)
		if len(positions) == 0 {
			return errNoHistory.With("nothing was ever recorded of %s %q", of, name)
		}
		from, to := projections.Position(after), snapshot.Position
		for bound, query := range map[*projections.Position]string{&from: "from", &to: "to"} {
			if text := r.URL.Query().Get(query); text != "" {
				then, err := s.asOf(r, query, text)
				if err != nil {
					return err
				}
				*bound = then.Position
			}
		}
		types, err := s.types(r.URL.Query())
		if err != nil {
			return err
		}
		entries, more, err := s.selected(r.Context(), between(positions, max(from, projections.Position(after)), to), int(limit), func(e HistoryEntry) bool {
			actor := r.URL.Query()["actor"]
			return (types == nil || slices.Contains(types, e.Type)) && (actor == nil || slices.Contains(actor, e.Actor))
		})
		if err != nil {
			return err
		}
		if more {
			next(w, r, entries[limit-1].Position)
		}
		return s.answerHistory(w, r, entries)
	}
}

// subject is the name of what a path is about, checked.
func subject(r *http.Request, of, key string) (string, error) {
	if of == projections.OfHost {
		host, err := address(r)
		return string(host), err
	}
	return domain.ParseName[string](param(r, key))
}

// selected reads the first of the events at these positions that are wanted, and
// tells whether there are more.
func (s *Server) selected(ctx context.Context, positions []projections.Position, limit int, wanted func(HistoryEntry) bool) ([]HistoryEntry, bool, error) {
	selected := []HistoryEntry{}
	for chunk := range slices.Chunk(positions, largestPage) {
		entries, err := s.config.Entries(ctx, chunk)
		if err != nil {
			return nil, false, err
		}
		for _, e := range entries {
			if !wanted(e) {
				continue
			}
			if len(selected) == limit {
				return selected, true, nil
			}
			selected = append(selected, e)
		}
	}
	return selected, false, nil
}

// The forms of the audit trail beside JSON.
const (
	asCSV   = "text/csv"
	asLines = "application/x-ndjson"
)

func (s *Server) answerHistory(w http.ResponseWriter, r *http.Request, entries []HistoryEntry) error {
	accept := r.Header.Get("Accept")
	header := w.Header()
	switch {
	case strings.Contains(accept, asCSV):
		header.Set("Content-Type", asCSV+"; charset=utf-8; header=present") // RFC 4180
	case strings.Contains(accept, asLines):
		header.Set("Content-Type", asLines)
	default:
		return s.answer(w, r, http.StatusOK, entries)
	}
	header.Set("Cache-Control", "private, no-cache")
	header.Set("Vary", "Accept, Accept-Encoding")
	if strings.Contains(accept, asCSV) {
		out := csv.NewWriter(w)
		_ = out.Write([]string{"position", "time", "stream", "type", "actor", "reason", "request_id", "data"})
		for _, e := range entries {
			_ = out.Write([]string{
				strconv.FormatUint(e.Position, 10), e.Time.UTC().Format(time.RFC3339Nano), e.Stream, e.Type,
				text(e.Actor), text(e.Reason), text(e.RequestID), string(e.Data),
			})
		}
		out.Flush()
		return ignore(out.Error())
	}
	out := json.NewEncoder(w)
	for _, e := range entries {
		if err := out.Encode(e); err != nil {
			return ignore(err)
		}
	}
	return nil
}

// text is a cell that no spreadsheet takes for a formula.
func text(cell string) string {
	if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}
