package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
	"golang.org/x/crypto/bcrypt"

	"commissaire/test/longlog"
)

const (
	bareServer = "bare-server" // how this program is told to be one
	password   = "bench"       // of the user bench, on loopback, as long as a run lasts
	masterKey  = "env:BENCH_MASTER_KEY"
)

// server is a program that listens on loopback, as long as it is wanted.
type server struct {
	cmd     *exec.Cmd
	address string
	took    time.Duration // from its start until it listened
}

// start starts a program that says "listens on http://ADDRESS".
func start(ctx context.Context, program string, arguments, environment []string) (*server, error) {
	cmd := exec.CommandContext(ctx, program, arguments...)
	cmd.Env = append(os.Environ(), environment...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = io.Discard
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &server{cmd: cmd}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if _, address, ok := strings.Cut(lines.Text(), "listens on http://"); ok {
			s.address, s.took = address, time.Since(began)
			return s, nil
		}
	}
	s.stop()
	return nil, fmt.Errorf("%s did not start", program)
}

func (s *server) stop() { s.end(syscall.SIGKILL) }

// end ends the program by a signal. It may be repeated.
func (s *server) end(by syscall.Signal) {
	_ = s.cmd.Process.Signal(by)
	_ = s.cmd.Wait() // how it ends is not asked
}

// service starts the service on a store below the bench's directory, built from
// this tree.
func (b *bench) service(ctx context.Context, store string, more map[string]any) (*server, error) {
	program := filepath.Join(b.dir, "commissaire")
	if _, err := os.Stat(program); err != nil {
		if out, err := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", program, "commissaire/cmd/commissaire").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build the service: %w: %s", err, out)
		}
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		return nil, err
	}
	config := map[string]any{
		"listen-interface": "127.0.0.1", "listen-port": 0, "store": "sqlite:" + filepath.Join(b.dir, store),
		"hosts":                  map[string]any{"allow-loopback": true},
		"authentication-plugins": []any{map[string]any{"name": "httpbasicauth", "users": map[string]any{"bench": map[string]any{"hash": string(hash)}}}},
		"credentials":            map[string]any{"master-key": masterKey},
	}
	maps.Copy(config, more)
	text, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(b.dir, "config.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, err
	}
	return start(ctx, program, []string{"serve", "--config", path}, []string{"BENCH_MASTER_KEY=" + base64.StdEncoding.EncodeToString(make([]byte, 32))})
}

// request is a request as it goes over the wire.
func request(method, path, body string) []byte {
	return fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: bench\r\nAuthorization: Basic %s\r\nContent-Length: %d\r\n\r\n%s",
		method, path, base64.StdEncoding.EncodeToString([]byte("bench:"+password)), len(body), body)
}

// load has clients ask one after the other, each on a connection of its own,
// for the span, and returns how many answers came and how long each took. An
// answer of another status than wanted is an error.
func (b *bench) load(ctx context.Context, address string, clients, wanted int, next func(n int) []byte) (int, []time.Duration, error) {
	var (
		n     atomic.Int64
		mu    sync.Mutex
		all   []time.Duration
		fails []error
		work  sync.WaitGroup
	)
	ends := time.Now().Add(b.span)
	for range clients {
		work.Go(func() {
			var took []time.Duration
			err := func() error {
				conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
				if err != nil {
					return err
				}
				defer func() { _ = conn.Close() }()
				in := bufio.NewReader(conn)
				for now := time.Now(); now.Before(ends) && ctx.Err() == nil; {
					if _, err := conn.Write(next(int(n.Add(1)))); err != nil {
						return err
					}
					response, err := http.ReadResponse(in, nil)
					if err != nil {
						return err
					}
					text, err := io.ReadAll(response.Body)
					if err != nil {
						return err
					}
					if response.StatusCode != wanted {
						return fmt.Errorf("answered %s: %s", response.Status, text)
					}
					after := time.Now()
					took, now = append(took, after.Sub(now)), after
				}
				return ctx.Err()
			}()
			mu.Lock()
			defer mu.Unlock()
			all, fails = append(all, took...), append(fails, err)
		})
	}
	work.Wait()
	return len(all), all, errors.Join(fails...)
}

// puts measures durable changes: of distinct clusters, which all go to one
// stream, on SQLite and the EventStoreDB double by turns; and reads of
// credentials, which are each recorded on their host's.
func (b *bench) puts(ctx context.Context) (err error) {
	const hosts = 2000
	if err := b.write(ctx, "puts", hosts, 0); err != nil {
		return err
	}
	s, err := b.service(ctx, "puts", map[string]any{"watch": map[string]any{"interval": "1h"}})
	if err != nil {
		return err
	}
	defer s.stop()
	d, err := b.newDouble(hosts, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	onDouble, err := b.service(ctx, "puts", d.settings("double"))
	if err != nil {
		return err
	}
	defer onDouble.stop()
	for _, clients := range []int{1, 16, 128} {
		put := func(s *server) (int, string, error) {
			n, took, err := b.load(ctx, s.address, clients, http.StatusCreated, func(n int) []byte {
				return request(http.MethodPut, fmt.Sprintf("/api/v0/cluster/put-%d-%d", clients, n), "{}")
			})
			return n, fmt.Sprintf("p99 %s", percentile(took, 99)), err
		}
		n, late, err := put(s)
		if err != nil {
			return err
		}
		b.row(fmt.Sprintf("PUT /cluster/{distinct}, %d clients", clients), rate(n, b.span), late)
		m, late, err := put(onDouble)
		if err != nil {
			return err
		}
		b.row("the same on the "+doubleName, rate(m, b.span), fmt.Sprintf("%s; %.2f of SQLite's", late, float64(m)/float64(n)))
	}
	onDouble.stop()
	for _, clients := range []int{1, 16, 128} {
		n, took, err := b.load(ctx, s.address, clients, http.StatusOK, func(n int) []byte {
			return request(http.MethodGet, "/api/v0/host/"+longlog.Address(n%hosts)+"/creds", "")
		})
		if err != nil {
			return err
		}
		b.row(fmt.Sprintf("GET /host/{many}/creds, each recorded, %d clients", clients), rate(n, b.span), fmt.Sprintf("p99 %s", percentile(took, 99)))
	}
	return nil
}

// gets measures reads, beside a bare router that serves the same bytes.
func (b *bench) gets(ctx context.Context) error {
	const hosts = 1000
	if err := b.write(ctx, "gets", hosts, 0); err != nil {
		return err
	}
	s, err := b.service(ctx, "gets", map[string]any{"watch": map[string]any{"interval": "1h"}})
	if err != nil {
		return err
	}
	defer s.stop()
	get := request(http.MethodGet, "/api/v0/host/"+longlog.Address(1), "")
	body, err := once(ctx, s.address, get)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bare, err := start(ctx, self, []string{bareServer, string(body)}, nil)
	if err != nil {
		return err
	}
	defer bare.stop()
	const rounds, clients = 3, 64
	var ours, theirs int
	var took, bareTook []time.Duration
	for range rounds { // in turn, because the machine's speed drifts
		for _, kind := range []struct {
			address string
			sum     *int
			took    *[]time.Duration
		}{{s.address, &ours, &took}, {bare.address, &theirs, &bareTook}} {
			n, all, err := b.load(ctx, kind.address, clients, http.StatusOK, func(int) []byte { return get })
			if err != nil {
				return err
			}
			*kind.sum += n
			*kind.took = append(*kind.took, all...)
		}
	}
	b.row("GET /host, 64 clients", rate(ours, rounds*b.span), fmt.Sprintf("p99 %s", percentile(took, 99)))
	b.row("bare chi handler, the same bytes", rate(theirs, rounds*b.span), fmt.Sprintf("p99 %s; ours is %.2f of it", percentile(bareTook, 99), float64(ours)/float64(theirs)))
	return nil
}

// once asks once. Anything but success is an error.
func once(ctx context.Context, address string, request []byte) ([]byte, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(response.Body)
	if response.StatusCode >= 300 {
		return nil, fmt.Errorf("answered %s: %s", response.Status, text)
	}
	return text, err
}

// serveBare serves its argument at the path of a host, and nothing else.
func serveBare() {
	body := []byte(os.Args[2])
	router := chi.NewRouter()
	router.Get("/api/v0/host/{host}", func(w http.ResponseWriter, r *http.Request) {
		_ = chi.URLParam(r, "host")
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	})
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("listens on http://" + listener.Addr().String())
	_ = (&http.Server{Handler: router, ReadHeaderTimeout: time.Minute}).Serve(listener) // until it is killed
}
