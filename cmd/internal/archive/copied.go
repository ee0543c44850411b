package archive

import (
	"fmt"
	"strings"

	"commissaire/domain"
	"commissaire/domain/event"
)

// LogState says what a log is.
type LogState struct {
	Events   uint64         `json:"events"`
	Position event.Position `json:"position"`
	Root     string         `json:"root"` // of the Merkle tree, in base64
}

func (s LogState) String() string {
	return fmt.Sprintf("%d events, up to position %d, root %s", s.Events, s.Position, s.Root)
}

// Copied is what a backup or a restore found and did.
type Copied struct {
	LogState
	Size        int64                 `json:"size"`                // bytes of the log
	Credentials *int                  `json:"credentials"`         // nil: they were not copied
	Opened      bool                  `json:"credentials_opened"`  // with the master key, each
	Missing     []domain.CredentialID `json:"credentials_missing"` // that the log names
}

// Text says it in lines; log and secrets say where the two are now.
func (c Copied) Text(log, secrets string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "%s, %d bytes: %s\n", c.LogState, c.Size, log)
	switch {
	case c.Credentials == nil:
	case c.Opened:
		fmt.Fprintf(&text, "%d credentials, each was opened with the master key: %s\n", *c.Credentials, secrets)
	default:
		fmt.Fprintf(&text, "%d credentials, none was opened, as no master key is configured: %s\n", *c.Credentials, secrets)
	}
	if len(c.Missing) > 0 {
		fmt.Fprintf(&text, "%d credentials that the log names are not there; a host or container manager that has one must be removed and added again with its key:\n", len(c.Missing))
		for _, id := range c.Missing {
			fmt.Fprintf(&text, "  %s\n", id)
		}
	}
	return text.String()
}
