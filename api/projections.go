package api

import (
	"net/http"
	"slices"
	"strings"

	"commissaire/domain"
	"commissaire/projections"
)

var (
	errNoProjection = domain.Refuse(domain.NotFound, "no-such-projection")
	errNoRebuild    = domain.Refuse(domain.NotFound, "no-rebuild")
)

// allProjections is the name of them all.
const allProjections = "all"

// Projections are the views and what was done to them, as GET /projections shows
// them.
type Projections struct {
	Position  projections.Position `json:"position"` // of all: they are one cut
	Time      projections.Time     `json:"time"`     // of the event there
	Events    uint64               `json:"events"`   // that were folded
	Views     []projections.View   `json:"views"`
	Snapshots any                  `json:"snapshots"` // in files, latest first
	Rebuild   *projections.Rebuild `json:"rebuild"`   // the one that runs, or ran last since the start
}

func (s *Server) getProjections(w http.ResponseWriter, r *http.Request) error {
	if err := presentOnly(r); err != nil {
		return err
	}
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	snapshots, err := s.config.Snapshots()
	if err != nil {
		return err
	}
	return s.answer(w, r, http.StatusOK, Projections{
		snapshot.Position, projections.Time{Time: snapshot.Time}, snapshot.Events, snapshot.Views(), snapshots, s.config.Rebuilds.Last(),
	})
}

// putRebuild folds the log afresh, to serve or to compare what that comes to. All
// views are folded, whichever is named: they are one cut, and read each other.
// Where that is under way already, it is what is shown.
func (s *Server) putRebuild(kind string) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := s.projection(r); err != nil {
			return err
		}
		if _, err := s.readBody(r); err != nil { // there is nothing to say in it
			return err
		}
		shown, begun := s.config.Rebuilds.Start(kind, identity(r).Name)
		if !begun && (shown == nil || shown.State != projections.Folding) {
			return &unready{errEnding}
		}
		return s.answer(w, r, http.StatusAccepted, shown)
	}
}

func (s *Server) deleteRebuild(w http.ResponseWriter, r *http.Request) error {
	if err := s.projection(r); err != nil {
		return err
	}
	shown, err := s.config.Rebuilds.Cancel(r.Context())
	if err != nil {
		return err
	}
	if shown == nil {
		return errNoRebuild.With("nothing was rebuilt since the service started")
	}
	return s.answer(w, r, http.StatusOK, shown)
}

// projection refuses the name of none.
func (s *Server) projection(r *http.Request) error {
	name := param(r, "name")
	names := []string{allProjections}
	for _, view := range s.config.Views.Snapshot().Views() {
		names = append(names, view.Name)
	}
	if slices.Contains(names, name) {
		return nil
	}
	return errNoProjection.With("there is no projection %q; there are %s", name, strings.Join(names, ", "))
}
