package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net"
	"net/http"
	"time"

	"commissaire/commands"
	"commissaire/domain"
	"commissaire/projections"
)

// managerWait bounds how long a container manager may take to describe a host.
const managerWait = 5 * time.Second

func (s *Server) getHosts(w http.ResponseWriter, r *http.Request) error {
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	return s.answer(w, r, http.StatusOK, snapshot.Hosts())
}

func (s *Server) getHost(w http.ResponseWriter, r *http.Request) error {
	addr, err := address(r)
	if err != nil {
		return err
	}
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	host, ok := snapshot.HostAnswer(addr)
	if !ok {
		return domain.ErrNoHost.With("there is no host %s", addr)
	}
	return s.answer(w, r, http.StatusOK, host)
}

// getInventory answers with what there is to know of a host.
func (s *Server) getInventory(w http.ResponseWriter, r *http.Request) error {
	addr, err := address(r)
	if err != nil {
		return err
	}
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	found, ok := snapshot.Inventory(addr)
	if !ok {
		return domain.ErrNoHost.With("there is no host %s", addr)
	}
	return s.answer(w, r, http.StatusOK, found)
}

func (s *Server) putHost(w http.ResponseWriter, r *http.Request) error {
	addr, err := address(r)
	if err != nil {
		return err
	}
	return s.addHost(w, r, addr)
}

// putSelf adds the host that the connection comes from.
func (s *Server) putSelf(w http.ResponseWriter, r *http.Request) error {
	ip, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return domain.ErrInvalid.With("the address of the connection is not known; use PUT /host/{address}")
	}
	addr, err := domain.ParseAddress(ip)
	if err != nil {
		return err
	}
	return s.addHost(w, r, addr)
}

func (s *Server) addHost(w http.ResponseWriter, r *http.Request, addr domain.Address) error {
	who, b, err := s.change(r)
	if err != nil {
		return err
	}
	cmd, err := s.hostCommand(b, addr)
	if err != nil {
		return err
	}
	receipt, err := s.config.Commands.PutHost(r.Context(), who, cmd)
	if err != nil {
		return err
	}
	return s.answer(w, r, http.StatusCreated, s.changedHost(w, r, addr, receipt))
}

// changedHost is a host after a command about it.
func (s *Server) changedHost(w http.ResponseWriter, r *http.Request, addr domain.Address, receipt commands.Receipt) projections.Host {
	host, ok := s.settle(w, r, receipt).Host(addr)
	if !ok { // the view is late, and this is what it will say; or the host was removed since
		host = projections.Host{Address: addr, Status: projections.Investigating}
	}
	return host
}

// hostCommand is what a body asks for about the host of an address.
func (s *Server) hostCommand(b body, addr domain.Address) (commands.PutHost, error) {
	cmd := commands.PutHost{Address: addr}
	for _, read := range []func(body, *commands.PutHost) error{
		sameAddress, s.readLogin, readCluster, readPort, readHostKey,
	} {
		if err := read(b, &cmd); err != nil {
			return commands.PutHost{}, err
		}
	}
	var err error
	if cmd.Certificate, err = b.text("ssh_certificate"); err != nil {
		return commands.PutHost{}, err
	}
	return cmd, b.into("take_over", &cmd.TakeOver, "must be true or false")
}

func sameAddress(b body, cmd *commands.PutHost) error {
	given, err := b.str("address")
	if err != nil || given == nil {
		return err
	}
	if same, err := domain.ParseAddress(*given); err != nil || same != cmd.Address {
		return domain.ErrInvalid.At("address", "contradicts the path, which says %s", cmd.Address)
	}
	return nil
}

func (s *Server) readLogin(b body, cmd *commands.PutHost) error {
	key, err := b.str("ssh_priv_key")
	if err != nil {
		return err
	}
	if key != nil {
		cmd.PrivateKey, cmd.KeyProblem = readKey(*key, s.config.Commands.CheckKey)
	}
	user, err := b.text("remote_user")
	if err != nil || user == "" { // it is the default, or that of the known host
		return err
	}
	cmd.RemoteUser, err = domain.ParseRemoteUser(user)
	return err
}

func readCluster(b body, cmd *commands.PutHost) error {
	cluster, err := b.text("cluster")
	if err != nil || cluster == "" {
		return err
	}
	name, err := domain.ParseName[domain.ClusterName](cluster)
	if err != nil {
		return domain.ErrInvalid.At("cluster", "%v", err)
	}
	cmd.Cluster = &name
	return nil
}

func readPort(b body, cmd *commands.PutHost) error {
	raw, ok := b["ssh_port"]
	if ok && (json.Unmarshal(raw, &cmd.Port) != nil || cmd.Port < 1 || cmd.Port > 65535) {
		return domain.ErrInvalid.At("ssh_port", "must be a port from 1 to 65535")
	}
	return nil
}

func readHostKey(b body, cmd *commands.PutHost) error {
	key, err := b.text("ssh_host_key")
	if err != nil || key == "" {
		return err
	}
	if cmd.HostKey, err = domain.ParseFingerprint(key); err != nil {
		return domain.ErrInvalid.At("ssh_host_key", "%v", err)
	}
	return nil
}

func (s *Server) deleteHost(w http.ResponseWriter, r *http.Request) error {
	addr, err := address(r)
	if err != nil {
		return err
	}
	return s.delete(w, r, func(ctx context.Context, who commands.Who) (commands.Receipt, error) {
		return s.config.Commands.DeleteHost(ctx, who, addr)
	})
}

func (s *Server) getCredentials(w http.ResponseWriter, r *http.Request) error {
	addr, err := address(r)
	if err != nil {
		return err
	}
	if err := presentOnly(r); err != nil {
		return err
	}
	who, err := s.who(r)
	if err != nil {
		return err
	}
	found, receipt, err := s.config.Commands.ReadCredentials(r.Context(), who, addr)
	if err != nil {
		return err
	}
	s.settle(w, r, receipt)
	w.Header().Set("Cache-Control", "no-store")
	return s.answer(w, r, http.StatusOK, struct {
		Key  string            `json:"ssh_priv_key"`
		User domain.RemoteUser `json:"remote_user"`
	}{base64.StdEncoding.EncodeToString(found.PrivateKey), found.RemoteUser})
}

func (s *Server) getHostStatus(w http.ResponseWriter, r *http.Request) error {
	addr, err := address(r)
	if err != nil {
		return err
	}
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	host, ok := snapshot.Host(addr)
	if !ok {
		return domain.ErrNoHost.With("there is no host %s", addr)
	}
	type status struct {
		LastCheck projections.Time `json:"last_check"`
		Status    string           `json:"status"`
	}
	node := json.RawMessage("{}")
	_, past := asOfQuery(r)
	if manager := snapshot.Managed(host.Address); manager != "" && !past {
		ctx, cancel := context.WithTimeout(r.Context(), managerWait)
		defer cancel()
		if live, err := s.config.NodeStatus(ctx, manager, host.Address); err == nil {
			node = live
		} else {
			s.config.Logger.Warn("container manager did not describe a host", "host", host.Address, "error", err)
		}
	}
	return s.answer(w, r, http.StatusOK, struct {
		Type    string          `json:"type"`
		Host    status          `json:"host"`
		Manager json.RawMessage `json:"container_manager"`
	}{"host_only", status{host.LastCheck, host.Status}, node})
}

func (s *Server) putHostKey(w http.ResponseWriter, r *http.Request) error {
	addr, err := address(r)
	if err != nil {
		return err
	}
	who, b, err := s.change(r)
	if err != nil {
		return err
	}
	fingerprint, err := b.text("fingerprint")
	if err != nil {
		return err
	}
	if fingerprint, err = domain.ParseFingerprint(fingerprint); err != nil {
		return domain.ErrInvalid.At("fingerprint", "%v", err)
	}
	receipt, err := s.config.Commands.AcceptHostKey(r.Context(), who, addr, fingerprint)
	if err != nil {
		return err
	}
	return s.answer(w, r, http.StatusCreated, s.changedHost(w, r, addr, receipt))
}

func (s *Server) putTakeover(w http.ResponseWriter, r *http.Request) error {
	addr, err := address(r)
	if err != nil {
		return err
	}
	who, _, err := s.change(r)
	if err != nil {
		return err
	}
	receipt, err := s.config.Commands.TakeHostOver(r.Context(), who, addr)
	if err != nil {
		return err
	}
	return s.answer(w, r, http.StatusOK, s.changedHost(w, r, addr, receipt))
}
