package projections

import (
	"commissaire/domain"
	"commissaire/domain/event"
)

// Plan is what an operation would do. Nothing of it is recorded.
type Plan struct {
	Kind    domain.OperationKind `json:"kind"`
	Cluster domain.ClusterName   `json:"cluster"`
	Version string               `json:"version,omitempty"`
	Policy  event.Policy         `json:"policy"`
	Seed    uint64               `json:"seed,omitempty"` // of a random order: send it to have the same
	Batches [][]domain.Address   `json:"batches"`        // hosts in the order of their turns; without batches they are one
	Hosts   []PlannedHost        `json:"hosts"`
}

// PlannedHost is a host's part in a plan.
type PlannedHost struct {
	Address      domain.Address `json:"address"`
	Commands     []string       `json:"commands"`                // none: nothing is done there
	Skip         string         `json:"skip,omitempty"`          // why there is nothing to do, which counts as done
	Problem      string         `json:"problem,omitempty"`       // why its turn would fail
	UpdateDriver string         `json:"update_driver,omitempty"` // the program that drives its updates
}

// OnHost are the commands that an operation has a host with these facts run, one
// after the other; or why there is nothing to do there, or why it cannot be done.
type OnHost func(kind domain.OperationKind, version string, policy event.Policy, facts event.Facts) (commands []string, skip, problem string)

// Plan is a plan as it is shown.
func (s *Snapshot) Plan(started event.Started, kind domain.OperationKind, version string, batches [][]event.Member, on OnHost) Plan {
	plan := Plan{
		Kind: kind, Cluster: started.Cluster, Version: version, Policy: started.Policy, Seed: started.Seed,
		Batches: [][]domain.Address{}, Hosts: []PlannedHost{},
	}
	if len(batches) == 0 && len(started.Hosts) > 0 {
		batches = [][]event.Member{started.Hosts}
	}
	for _, batch := range batches {
		var hosts []domain.Address
		for _, m := range batch {
			facts := s.facts(m.HostID)
			commands, skip, problem := on(kind, version, started.Policy, facts)
			hosts = append(hosts, m.Host)
			plan.Hosts = append(plan.Hosts, PlannedHost{m.Host, append([]string{}, commands...), skip, problem, facts.UpdateDriver})
		}
		plan.Batches = append(plan.Batches, hosts)
	}
	return plan
}
