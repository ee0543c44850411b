package roster

import (
	"bytes"
	"encoding/json"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"commissaire/domain"
	"commissaire/domain/event"
)

// The rules about networks and container managers.
var (
	ErrNoNetwork = domain.ErrNoNetwork
	ErrNoManager = domain.ErrNoManager
	ErrDiffers   = domain.Refuse(domain.Conflict, "already-defined")
	ErrInUse     = domain.Refuse(domain.Conflict, "in-use")
)

// DefineNetwork makes a network. The same again changes nothing; another under
// the same name is refused.
func (r *Roster) DefineNetwork(n event.NetworkDefined) ([]event.RosterEvent, error) {
	switch n.Type {
	case domain.FlannelEtcd:
	case domain.FlannelServer:
		var options struct {
			Address string `json:"address"`
		}
		if json.Unmarshal(n.Options, &options) != nil {
			return nil, domain.ErrInvalid.At("options", "address must be a string")
		}
		host, port, err := net.SplitHostPort(options.Address)
		_, noHost := domain.ParseAddress(host)
		if number, noPort := strconv.ParseUint(port, 10, 16); err != nil || noHost != nil || noPort != nil || number == 0 {
			return nil, domain.ErrInvalid.At("options", "a flannel_server needs address as host:port")
		}
	default:
		return nil, domain.ErrInvalid.At("type", "%q is no network type: use flannel_etcd or flannel_server", n.Type)
	}
	if old, ok := r.networks.Get(n.Network); ok {
		if old.Type == n.Type && sameJSON(old.Options, n.Options) {
			return nil, nil
		}
		return nil, ErrDiffers.With("network %s is defined otherwise", n.Network)
	}
	return []event.RosterEvent{n}, nil
}

// RemoveNetwork removes a network that no cluster uses. The default one stays.
func (r *Roster) RemoveNetwork(name domain.NetworkName) ([]event.RosterEvent, error) {
	if _, ok := r.networks.Get(name); !ok {
		return nil, ErrNoNetwork.With("there is no network %q", name)
	}
	if name == domain.DefaultNetwork {
		return nil, ErrInUse.With("the network default always exists")
	}
	if c := r.uses(func(c Cluster) bool { return c.Network == name }); c != "" {
		return nil, ErrInUse.With("cluster %s uses network %s", c, name)
	}
	return []event.RosterEvent{event.NetworkRemoved{Network: name}}, nil
}

// DefineManager makes a container manager. The same again changes nothing;
// another under the same name is refused.
func (r *Roster) DefineManager(m event.ContainerManagerDefined) ([]event.RosterEvent, error) {
	options := map[string]string{}
	if json.Unmarshal(m.Options, &options) != nil {
		return nil, domain.ErrInvalid.At("options", "every option of a container manager is a string")
	}
	servers, files := domain.ManagerServers(), domain.ManagerFiles()
	for key := range options {
		if !slices.Contains(servers, key) && !slices.Contains(files, key) {
			return nil, domain.ErrInvalid.At("options", "%q is no option: there are %s, token, %s", key, strings.Join(servers, " (or ")+")", strings.Join(files, ", "))
		}
	}
	reached := false
	for _, key := range servers {
		if options[key] == "" {
			continue
		}
		reached = true
		switch u, err := url.Parse(options[key]); {
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			return nil, domain.ErrInvalid.At("options", "%s must be an http or https URL", key)
		case u.User != nil: // it is recorded and shown as it is
			return nil, domain.ErrInvalid.At("options", "%s must be without user and password: give a token", key)
		}
	}
	switch m.Type {
	case domain.OpenShift, domain.Kubernetes:
		if !reached {
			return nil, domain.ErrInvalid.At("options", "%s needs server_url (or apiserver)", m.Type)
		}
	case domain.Trivial:
	default:
		return nil, domain.ErrInvalid.At("type", "%q is no container manager type: use openshift, kubernetes or trivial", m.Type)
	}
	if old, ok := r.managers.Get(m.Manager); ok {
		if old.Type == m.Type && sameJSON(old.Options, m.Options) && old.TokenDigest == m.TokenDigest {
			return nil, nil
		}
		return nil, ErrDiffers.With("container manager %s is defined otherwise", m.Manager)
	}
	return []event.RosterEvent{m}, nil
}

// RemoveManager removes a container manager that no cluster uses.
func (r *Roster) RemoveManager(name domain.ManagerName) ([]event.RosterEvent, error) {
	m, ok := r.managers.Get(name)
	if !ok {
		return nil, ErrNoManager.With("there is no container manager %q", name)
	}
	if c := r.uses(func(c Cluster) bool { return c.ManagerID == m.ManagerID }); c != "" {
		return nil, ErrInUse.With("cluster %s uses container manager %s", c, name)
	}
	return []event.RosterEvent{event.ContainerManagerRemoved{ManagerID: m.ManagerID, Manager: name}}, nil
}

func (r *Roster) uses(f func(Cluster) bool) (user domain.ClusterName) {
	r.clusters.Scan(func(_ domain.ClusterID, c Cluster) bool {
		if f(c) {
			user = c.Name
		}
		return user == ""
	})
	return user
}

func sameJSON(a, b json.RawMessage) bool {
	x, errX := canonical(a)
	y, errY := canonical(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func canonical(data json.RawMessage) ([]byte, error) {
	var value any
	numbers := json.NewDecoder(bytes.NewReader(data))
	numbers.UseNumber() // large ones differ in digits that a float does not have
	if err := numbers.Decode(&value); err != nil {
		return nil, err
	}
	return json.Marshal(value)
}
