package api

import (
	"net/http"

	"commissaire/projections"
)

// Status is how an instance of the service is, as GET /status shows it.
type Status struct {
	Age          int                   `json:"age"` // seconds since when the views cannot follow the log; 0: they do
	Instance     string                `json:"instance"`
	Lag          *projections.Position `json:"lag"` // positions that the views are behind; null while the log does not say where it ends
	Leader       projections.Leader    `json:"leader"`
	Leads        bool                  `json:"leads"`        // this instance is the leader
	LogPosition  *projections.Position `json:"log_position"` // of the last event; null like lag
	Store        string                `json:"store"`        // sqlite, memory, esdb or esdb+discover
	Version      string                `json:"version"`
	ViewPosition projections.Position  `json:"view_position"`
}

func (s *Server) getStatus(w http.ResponseWriter, r *http.Request) error {
	if err := presentOnly(r); err != nil {
		return err
	}
	if _, err := s.snapshot(w, r); err != nil {
		return err
	}
	return s.answer(w, r, http.StatusOK, s.config.Status(r.Context()))
}
