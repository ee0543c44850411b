// Package esdb is a double of EventStoreDB: the real protocol over real gRPC, in
// this process, with what the event log uses of it: appending, reading, deleting
// and following streams and $all, stream metadata, and a cluster whose nodes
// gossip and of which one leads.
//
// It keeps to the rules of the server that a client can see: positions are
// sparse, the server writes system events of its own, a missing stream and a
// wrong expected revision are answers and not failures of the call, the same
// append again is a success, subscriptions begin after the position they name,
// tell how far a filter has looked and say once when they have caught up, and a
// node that does not lead refuses who requires the leader and names it.
//
// It fails when told to: see Fault and the methods of Server.
package esdb

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/EventStore/EventStore-Client-Go/v4/protos/gossip"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/shared"
	"github.com/EventStore/EventStore-Client-Go/v4/protos/streams"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Cluster is nodes that keep one log.
type Cluster struct {
	Nodes []*Server

	log    *log
	mu     sync.Mutex
	leader int
}

// StartCluster starts a cluster, until the test ends.
func StartCluster(t testing.TB, nodes int) *Cluster {
	t.Helper()
	c, err := NewCluster(nodes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// NewCluster starts nodes with an empty log on loopback ports, until Close. The
// first leads.
func NewCluster(nodes int) (*Cluster, error) {
	c := &Cluster{log: newLog()}
	for range nodes {
		listener, err := listen("127.0.0.1:0")
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		s := &Server{cluster: c, log: c.log, address: listener.Addr().String(), dropped: make(chan struct{})}
		s.start(listener)
		c.Nodes = append(c.Nodes, s)
	}
	return c, nil
}

// Close stops all nodes.
func (c *Cluster) Close() error {
	var err error
	for _, s := range c.Nodes {
		err = errors.Join(err, s.stop())
	}
	return err
}

// ConnectionString is what a client is given to find the leader by gossip.
func (c *Cluster) ConnectionString() string {
	hosts := make([]string, len(c.Nodes))
	for i, s := range c.Nodes {
		hosts[i] = s.address
	}
	return "esdb://" + strings.Join(hosts, ",") + "?tls=false"
}

// Lead makes a node the leader. Calls that run are not ended.
func (c *Cluster) Lead(node int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leader = node
}

// Leader is the node that leads.
func (c *Cluster) Leader() *Server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Nodes[c.leader]
}

// Server is a node.
type Server struct {
	streams.UnimplementedStreamsServer

	cluster *Cluster
	log     *log
	address string

	open        sync.Map // of *counted
	connections atomic.Int64
	accepted    atomic.Int64
	scanned     atomic.Int64
	calls       atomic.Int64
	reads       atomic.Int64

	mu       sync.Mutex
	running  *grpc.Server
	stopping chan struct{}
	ended    chan error
	notReady bool
	stalled  chan struct{} // closed when it no longer is; nil when it is not
	frozen   chan struct{} // closed when it no longer is; nil when it is not
	faults   []Fault
	dropped  chan struct{} // closed and replaced when subscriptions are dropped
}

// Start starts a server with an empty log on a loopback port, until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	return StartCluster(t, 1).Nodes[0]
}

func listen(address string) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("start the EventStoreDB double: %w", err)
	}
	return listener, nil
}

func (s *Server) start(listener net.Listener) {
	// The client pings without calls more often than the default policy allows.
	server := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	streams.RegisterStreamsServer(server, s)
	gossip.RegisterGossipServer(server, gossiping{cluster: s.cluster})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running, s.stopping, s.ended = server, make(chan struct{}), make(chan error, 1)
	go func(ended chan<- error) { ended <- server.Serve(&counting{listener, s}) }(s.ended)
}

// Stop breaks all connections and refuses new ones. A stopped server stays so.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

func (s *Server) stop() error {
	s.mu.Lock()
	server, ended := s.running, s.ended
	s.running = nil
	if server != nil {
		close(s.stopping)
	}
	s.mu.Unlock()
	if server == nil {
		return nil
	}
	server.Stop()
	// It may be stopped before Serve has begun.
	if err := <-ended; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("the EventStoreDB double ended: %w", err)
	}
	return nil
}

// Restart takes connections again after Stop, at the same address, with what was
// recorded before.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	listener, err := listen(s.address)
	if err != nil {
		t.Fatal(err)
	}
	s.start(listener)
}

// ConnectionString is what a client is given to connect to this node alone.
func (s *Server) ConnectionString() string { return "esdb://" + s.address + "?tls=false" }

// Connections is how many connections are open.
func (s *Server) Connections() int { return int(s.connections.Load()) }

// Accepted is how many connections there were.
func (s *Server) Accepted() int { return int(s.accepted.Load()) }

// Scanned is how many events reads and subscriptions have looked at.
func (s *Server) Scanned() int { return int(s.scanned.Load()) }

// Reads is how many reads are under way: one that its client has left goes on for a
// moment.
func (s *Server) Reads() int { return int(s.reads.Load()) }

// Calls is how many appends, reads and subscriptions there were.
func (s *Server) Calls() int { return int(s.calls.Load()) }

// Fill records n events of somebody else in a stream.
func (s *Server) Fill(name string, n int) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	for range n {
		s.log.add(&recorded{id: uuid.New(), stream: name, metadata: map[string]string{"type": "Foreign", "content-type": "application/json"}, data: []byte(`{}`)})
	}
	s.log.wake()
}

// Record records an event at the end of a stream without a call, so that a long
// log is there soon.
func (s *Server) Record(name string, id uuid.UUID, kind string, data, meta []byte) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.log.add(&recorded{id: id, stream: name, metadata: map[string]string{"type": kind, "content-type": "application/json"}, data: data, custom: meta})
	s.log.wake()
}

type counting struct {
	net.Listener
	server *Server
}

func (l *counting) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.server.connections.Add(1)
	l.server.accepted.Add(1)
	c := &counted{Conn: conn, server: l.server}
	l.server.open.Store(c, true)
	return c, nil
}

type counted struct {
	net.Conn
	server *Server
	once   sync.Once
}

// Read gives nothing while the node is frozen.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.server.mu.Lock()
	frozen, stopping := c.server.frozen, c.server.stopping
	c.server.mu.Unlock()
	if frozen != nil {
		select {
		case <-frozen:
		case <-stopping:
		}
	}
	return n, err
}

func (c *counted) Close() error {
	c.once.Do(func() {
		c.server.connections.Add(-1)
		c.server.open.Delete(c)
	})
	return c.Conn.Close()
}

// admit lets a call of the streams service begin, or says why not.
func (s *Server) admit(ctx context.Context, trailer func(metadata.MD)) error {
	s.calls.Add(1)
	s.mu.Lock()
	notReady, stalled, stopping := s.notReady, s.stalled, s.stopping
	s.mu.Unlock()
	if stalled != nil {
		select {
		case <-stalled:
		case <-stopping:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if notReady {
		return status.Error(codes.Unavailable, "Server Is Not Ready")
	}
	asked, _ := metadata.FromIncomingContext(ctx)
	if leader := s.cluster.Leader(); leader != s && len(asked.Get("requires-leader")) > 0 && asked.Get("requires-leader")[0] == "true" {
		host, port, err := net.SplitHostPort(leader.address)
		if err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		trailer(metadata.Pairs("exception", "not-leader", "leader-endpoint-host", host, "leader-endpoint-port", port))
		return status.Error(codes.NotFound, "Leader info available")
	}
	return nil
}

// gossiping answers gossip; Server cannot, as its Read is that of streams.
type gossiping struct {
	gossip.UnimplementedGossipServer
	cluster *Cluster
}

// Read implements the protocol's gossip.
func (g gossiping) Read(context.Context, *shared.Empty) (*gossip.ClusterInfo, error) {
	info := &gossip.ClusterInfo{}
	leader := g.cluster.Leader()
	for _, s := range g.cluster.Nodes {
		host, port, err := net.SplitHostPort(s.address)
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
		s.mu.Lock()
		alive := s.running != nil
		s.mu.Unlock()
		state := gossip.MemberInfo_Follower
		if s == leader {
			state = gossip.MemberInfo_Leader
		}
		info.Members = append(info.Members, &gossip.MemberInfo{
			InstanceId:   &shared.UUID{Value: &shared.UUID_String_{String_: uuid.NewString()}},
			State:        state,
			IsAlive:      alive,
			HttpEndPoint: &gossip.EndPoint{Address: host, Port: uint32(number)},
		})
	}
	return info, nil
}
