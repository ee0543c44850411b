package service

import (
	"context"
	"time"

	"commissaire/adapters/output"
	"commissaire/api"
	"commissaire/cmd/internal/audit"
	"commissaire/cmd/internal/version"
	"commissaire/domain"
	"commissaire/domain/event"
)

// headTimeout is how long GET /status waits for the log to say where it ends.
const headTimeout = 2 * time.Second

// status is what GET /status answers.
func (s *Service) status(ctx context.Context) api.Status {
	ctx, cancel := context.WithTimeout(ctx, headTimeout)
	defer cancel()
	head, err := s.log.Head(ctx)
	status := api.Status{
		Version: version.Version, Store: s.config.Location().Kind(), ViewPosition: s.follower.position(), Age: int(s.follower.freshness.age().Seconds()),
		Instance: s.instance, Leads: s.leads.Load(), Leader: s.follower.views.Snapshot().Leader(),
	}
	if err != nil {
		s.logger.Warn("the position of the log is not known", "error", err)
		return status
	}
	lag := max(head, status.ViewPosition) - status.ViewPosition
	status.LogPosition, status.Lag = &head, &lag
	return status
}

// entries are the lines of the audit trail at these positions.
func (s *Service) entries(ctx context.Context, positions []event.Position) ([]api.HistoryEntry, error) {
	entries, err := s.log.Entries(ctx, positions)
	if err != nil {
		return nil, err
	}
	return audit.Lines(entries), nil
}

// entriesAfter are the next lines of the audit trail of everything.
func (s *Service) entriesAfter(ctx context.Context, after event.Position) ([]api.HistoryEntry, error) {
	entries, err := s.log.EntriesAfter(ctx, after)
	if err != nil {
		return nil, err
	}
	return audit.Lines(entries), nil
}

// outputs is the store of what hosts printed, as the API reads it.
type outputs struct{ *output.Store }

func (o outputs) Read(operation domain.OperationID, host domain.HostID) api.Printed {
	return o.Store.Read(operation, host)
}
