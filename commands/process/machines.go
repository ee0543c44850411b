package process

import (
	"fmt"

	"commissaire/domain"
	"commissaire/domain/event"
	"commissaire/domain/roster"
)

// machine is what tells a machine from others, whatever names it is known by: the
// host key that it proved to have, with its machine id, or, where it has none, with
// its boot id. A machine id alone is that of an image that was copied; a boot id
// alone is that of all containers on one kernel.
type machine struct{ key, id, bootID string }

func (m machine) is(other machine) bool {
	if m.key == "" || m.key != other.key {
		return false
	}
	if m.id != "" && other.id != "" {
		return m.id == other.id
	}
	return m.bootID != "" && m.bootID == other.bootID
}

// machines are those that hosts are.
type machines struct {
	told  map[domain.HostID]machine       // as hosts said last, here; those that are another host's are not in it
	twins map[domain.HostID]domain.HostID // hosts that are the same machine as another one
}

func newMachines() machines {
	return machines{told: map[domain.HostID]machine{}, twins: map[domain.HostID]domain.HostID{}}
}

// identify refuses a host that is the same machine as another one: that has known it
// as its own for longer, or was added before. A host that is known by its machine
// already gives way only to one that was added before it, so of two that are looked
// at in the same moment one has it. facts are told which other host is a copy.
func (p *Process) identify(id domain.HostID, key HostKey, facts *event.Facts) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	here := machine{key.Fingerprint, facts.MachineID, facts.BootID}
	known := p.machineOf(id).is(here)
	added := p.world.added
	var twin *roster.Host
	p.world.roster.Hosts(func(other roster.Host) bool {
		if other.HostID == id {
			return true
		}
		switch there := p.machineOf(other.HostID); {
		case here.is(there) && (!known || added[other.HostID].position < added[id].position):
			twin = &other
		case here.id != "" && here.id == there.id && here.key != there.key && facts.CloneOf == "":
			facts.CloneOf = other.Host
		}
		return twin == nil
	})
	if twin != nil {
		p.machines.twins[id] = twin.HostID
		delete(p.machines.told, id)
		return &Refused{Reason: fmt.Sprintf("this is the same machine as host %s, by its host key and its machine id or boot: remove one of the two", twin.Host)}
	}
	delete(p.machines.twins, id)
	p.machines.told[id] = here
	return nil
}

// machineOf is the machine of a host, as it said last. A twin has none.
func (p *Process) machineOf(id domain.HostID) machine {
	if m, ok := p.machines.told[id]; ok {
		return m
	}
	if _, twin := p.machines.twins[id]; twin {
		return machine{}
	}
	state := p.world.host(id)
	facts, _ := state.Facts()
	key, _ := state.Pinned()
	return machine{key.Fingerprint, facts.MachineID, facts.BootID}
}

// free forgets a host that was removed, and gives the hosts that were the same
// machine.
func (m *machines) free(removed domain.HostID) (freed []domain.HostID) {
	delete(m.told, removed)
	delete(m.twins, removed)
	for id, of := range m.twins {
		if of == removed {
			delete(m.twins, id)
			freed = append(freed, id)
		}
	}
	return freed
}
