package scenario

import (
	"encoding/json"
	"fmt"
	"time"

	"pgregory.net/rapid"

	"commissaire/domain"
	"commissaire/domain/event"
)

// Operations are those that Anything tells of.
var Operations = []domain.OperationID{
	"00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002", "00000000-0000-4000-8000-000000000003",
}

// Anything is an event about a few things, whether it makes sense or not.
func Anything(t *rapid.T) (event.Stream, event.Event) {
	i := rapid.IntRange(0, 3).Draw(t, "host")
	id, address := domain.HostID(fmt.Sprint("id", i)), domain.Address(fmt.Sprintf("10.0.0.%d", i))
	c := rapid.IntRange(0, 1).Draw(t, "cluster")
	clusterID, cluster := domain.ClusterID(fmt.Sprint("C", c)), domain.ClusterName(fmt.Sprint("c", c))
	o := rapid.IntRange(0, len(Operations)-1).Draw(t, "operation")
	started := event.Started{
		Operation: Operations[o], ClusterID: clusterID, Cluster: cluster,
		Hosts: []event.Member{{HostID: "id0", Host: "10.0.0.0"}, {HostID: "id1", Host: "10.0.0.1"}},
	}
	turn := event.Turn{Operation: started.Operation, HostID: id, Host: address}
	roster := func(e event.RosterEvent) (event.Stream, event.Event) { return event.RosterStream, e }
	host := func(e event.HostEvent) (event.Stream, event.Event) { return event.HostStream(id), e }
	on := func(e event.OperationEvent) (event.Stream, event.Event) {
		return event.OperationStream(started.Operation), e
	}
	version := fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "version"))
	switch rapid.IntRange(0, 37).Draw(t, "kind") {
	case 0, 1, 2, 3:
		return roster(event.HostAdded{HostID: id, Host: address, RemoteUser: "root", HostKey: version})
	case 4:
		return roster(event.HostRemoved{HostID: id, Host: address})
	case 5, 6:
		return roster(event.ClusterCreated{ClusterID: clusterID, Cluster: cluster, Network: "default"})
	case 7:
		return roster(event.ClusterReconfigured{ClusterID: clusterID, Cluster: cluster, Network: "n", Manager: "m", ManagerID: "M"})
	case 8:
		return roster(event.ClusterDeleted{ClusterID: clusterID, Cluster: cluster})
	case 9, 10, 11:
		return roster(event.HostJoined{HostID: id, Host: address, ClusterID: clusterID, Cluster: cluster})
	case 12:
		return roster(event.HostLeft{HostID: id, Host: address, ClusterID: clusterID, Cluster: cluster})
	case 13:
		return roster(event.NetworkDefined{Network: "n", Type: "flannel_etcd", Options: json.RawMessage("{}")})
	case 14:
		return roster(event.NetworkRemoved{Network: "n"})
	case 15:
		return roster(event.ContainerManagerDefined{ManagerID: "M", Manager: "m", Type: "trivial", Options: json.RawMessage(`{"token":"********"}`), Credential: "x"})
	case 16:
		return roster(event.DeployStarted{Started: started, Version: version})
	case 17:
		return roster(event.UpgradeStarted{Started: started})
	case 18:
		return roster(event.RestartStarted{Started: started})
	case 19:
		return roster(event.OperationCompleted{Operation: started.Operation, ClusterID: clusterID, Cluster: cluster})
	case 20:
		return roster(event.OperationAborted{Operation: started.Operation, ClusterID: clusterID, Cluster: cluster, Cause: "broken"})
	case 21, 22:
		return host(event.HostInvestigated{Host: address, Facts: event.Facts{OS: "fedora", CPUs: 2, Version: version}})
	case 23:
		return host(event.HostBootstrapped{Host: address})
	case 24:
		return host(event.HostRegistered{Host: address, ManagerID: "M"})
	case 25:
		return host(event.HostWentSilent{Host: address, Reason: version})
	case 26:
		return on(event.HostTurnBegun{Turn: turn})
	case 27:
		return on(event.HostTurnSucceeded{Turn: turn, Version: version})
	case 28:
		return on(event.HostTurnFailed{Turn: turn, Reason: version})
	case 29:
		return on(event.HostTurnSkipped{Turn: turn})
	case 30:
		return host(event.HostInvestigationFailed{Host: address, Reason: version})
	case 31:
		return host(event.HostKeyPinned{Host: address, Type: "ssh-ed25519", Fingerprint: version, AddedBy: "ann"})
	case 32:
		return host(event.HostKeyChanged{Host: address, Type: "ssh-rsa", Fingerprint: version})
	case 33:
		return host(event.HostKeyAccepted{Host: address, Type: "ssh-rsa", Fingerprint: version})
	case 34:
		return host(event.HostRegistrationFailed{Host: address, ManagerID: "M", Reason: version})
	case 35:
		return host(event.HostRegistrationBegun{Host: address, ManagerID: "M"})
	}
	return event.WatchStream, event.SweepFinished{Started: time.Unix(int64(rapid.IntRange(0, 1000).Draw(t, "sweep")), 0), Missed: []domain.HostID{id}}
}
