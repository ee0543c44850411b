// Package audit renders recorded events as the lines of the audit trail that the API
// shows. The service, replay and events show share this, so it belongs to none of them.
package audit

import (
	"commissaire/adapters/eventlog"
	"commissaire/api"
	"commissaire/projections"
)

// Line renders one event.
func Line(e eventlog.Entry) api.HistoryEntry {
	return api.HistoryEntry{
		Position: uint64(e.Position), Time: projections.Time{Time: e.Meta.Time}, Type: e.Type, Stream: string(e.Stream),
		Actor: e.Meta.Actor, Reason: e.Meta.Reason, RequestID: e.Meta.RequestID, Data: e.Data,
	}
}

// Lines renders events; none are an empty list.
func Lines(entries []eventlog.Entry) []api.HistoryEntry {
	lines := make([]api.HistoryEntry, len(entries))
	for i, e := range entries {
		lines[i] = Line(e)
	}
	return lines
}
