// Package containermanager tells container managers about hosts, and has them
// empty the nodes that are worked on: it implements process.Manager.
//
// README.md says how nodes and hosts belong together, which rights are needed,
// and what was decided.
package containermanager

import (
	"fmt"
	"sync"
	"syscall"
	"time"

	"commissaire/commands"
	"commissaire/commands/process"
	"commissaire/domain"
	"commissaire/domain/event"
)

// Config is what container managers are reached with.
type Config struct {
	Credentials    commands.Credentials                                   // where tokens are
	CertificateDir string                                                 // below which certificates and keys lie; "": nowhere
	Control        func(network, address string, _ syscall.RawConn) error // refuses where not to connect to
	Timeout        time.Duration                                          // of one call
}

// Managers are the container managers that are asked, each over connections of
// its own.
type Managers struct {
	config Config

	mu       sync.Mutex
	clusters map[domain.ManagerName]*cluster
}

// New is Managers that have asked nobody yet.
func New(config Config) *Managers {
	silence()
	return &Managers{config: config, clusters: map[domain.ManagerName]*cluster{}}
}

// Of is the container manager of a definition. Nothing is sent before it is
// asked for something. Another definition of the same name takes the place of
// the one before, whose connections are closed.
func (m *Managers) Of(definition event.ContainerManagerDefined) (process.Manager, error) {
	switch definition.Type {
	case domain.Trivial:
		return trivial{}, nil
	case domain.OpenShift, domain.Kubernetes:
	default:
		return nil, fmt.Errorf("container manager %s: there is no type %q", definition.Manager, definition.Type)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.clusters[definition.Manager]
	if known != nil && known.definition.ManagerID == definition.ManagerID {
		return known, nil
	}
	if known != nil {
		known.close()
	}
	c := &cluster{config: m.config, definition: definition}
	m.clusters[definition.Manager] = c
	return c, nil
}

// Close closes all connections that are idle.
func (m *Managers) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.clusters {
		c.close()
	}
}
