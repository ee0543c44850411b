package containermanager

import (
	"context"
	"encoding/json"
	"fmt"

	"commissaire/domain"
)

// trivial knows every host. What it was told is in the log.
type trivial struct{}

func (trivial) Register(context.Context, domain.Address) error { return nil }

func (trivial) Unregister(context.Context, domain.Address) error { return nil }

func (trivial) Ready(context.Context, domain.Address, string) (bool, string, error) {
	return true, "", nil
}

func (trivial) Cordoned(context.Context, domain.Address) (bool, error) { return false, nil }

func (trivial) Cordon(context.Context, domain.Address) error { return nil }

func (trivial) Drain(context.Context, domain.Address, int) error { return nil }

func (trivial) Uncordon(context.Context, domain.Address) error { return nil }

func (trivial) NodeStatus(_ context.Context, host domain.Address) (json.RawMessage, error) {
	status, err := json.Marshal(struct {
		Node   domain.Address `json:"node"`
		Status string         `json:"status"`
	}{host, "ok"})
	if err != nil {
		return nil, fmt.Errorf("describe host %s: %w", host, err)
	}
	return status, nil
}
