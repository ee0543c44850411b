package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"time"

	"commissaire/domain"
	"commissaire/projections"

	"github.com/klauspost/compress/gzhttp"
)

// Outputs is what hosts printed during operations.
type Outputs interface {
	// Read reads from the beginning. It must be closed.
	Read(operation domain.OperationID, host domain.HostID) Printed
	// Last is the end of it: at most that many lines and bytes; "" is none.
	Last(operation domain.OperationID, host domain.HostID, lines, size int) (string, error)
}

// Printed is what a host printed, as it is read.
type Printed interface {
	// Printed tells whether there is anything.
	Printed() (bool, error)
	// Next is what comes next, valid UTF-8; nothing is the end of what there is.
	Next() ([]byte, error)
	// Changed is closed when something is added after this call.
	Changed() <-chan struct{}
	Close()
}

var (
	errNoTurn   = domain.Refuse(domain.NotFound, "host-not-in-operation")
	errNoOutput = domain.Refuse(domain.NotFound, "no-output")
)

// What an operation shows of the output of its hosts.
const (
	lastLines  = 10
	lastBytes  = 1 << 10
	mostOutput = 100 // hosts, so that an operation that fails everywhere is shown as fast
)

// withOutput is an operation with the last lines of what was printed by hosts that
// are in hand or have failed.
func (s *Server) withOutput(o *projections.Operation) (*projections.Operation, error) {
	shown := *o
	shown.Hosts = slices.Clone(o.Hosts)
	n := 0
	for i := range shown.Hosts {
		t := &shown.Hosts[i]
		if t.State != "begun" && t.State != "failed" {
			continue
		}
		if n++; n > mostOutput {
			break
		}
		var err error
		if t.Output, err = s.config.Outputs.Last(o.ID, t.HostID, lastLines, lastBytes); err != nil {
			return nil, err
		}
	}
	return &shown, nil
}

// turn is the part of the operation and host that a path names, as it is now, and
// whether it has ended.
func (s *Server) turn(snapshot *projections.Snapshot, id domain.OperationID, host domain.Address) (turn projections.Turn, ended bool, err error) {
	o, ok := snapshot.Operation(id)
	if !ok {
		return turn, false, domain.ErrNoOperation.With("there is no operation %s", id)
	}
	i := slices.IndexFunc(o.Hosts, func(t projections.Turn) bool { return t.Address == host })
	if i < 0 {
		return turn, false, errNoTurn.With("host %s has no part in operation %s", host, id)
	}
	return o.Hosts[i], o.Hosts[i].FinishedAt != nil || o.FinishedAt != nil, nil
}

// getOutput answers with what a host printed; with follow=1 also with what it will
// have printed when its turn has ended.
func (s *Server) getOutput(w http.ResponseWriter, r *http.Request) error {
	id, err := domain.ParseID[domain.OperationID](param(r, "id"))
	if err != nil {
		return err
	}
	host, err := address(r)
	if err != nil {
		return err
	}
	if err := presentOnly(r); err != nil {
		return err
	}
	follow, err := following(r)
	if err != nil {
		return err
	}
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	turn, ended, err := s.turn(snapshot, id, host)
	if err != nil {
		return err
	}
	printed := s.config.Outputs.Read(id, turn.HostID)
	defer printed.Close()
	something, err := printed.Printed()
	switch {
	case err != nil:
		return err
	case !something && (!follow || ended):
		return noOutput(id, turn, ended)
	case follow:
		return s.follow(w, r, printed, func() bool {
			_, ended, err := s.turn(s.config.Views.Snapshot(), id, host)
			return ended || err != nil
		})
	}
	var all []byte
	if err := rest(printed, func(text []byte) { all = append(all, text...) }); err != nil {
		return err
	}
	sum := sha256.Sum256(all)
	return s.send(w, r, http.StatusOK, textPlain, all, `"`+hex.EncodeToString(sum[:16])+`"`)
}

// following tells whether a client asks for what is still to come, too.
func following(r *http.Request) (bool, error) {
	query := r.URL.Query()
	if !query.Has("follow") {
		return false, nil
	}
	follow, err := strconv.ParseBool(query.Get("follow"))
	if err != nil {
		return false, domain.ErrInvalid.At("follow", "must be 1 or 0")
	}
	return follow, nil
}

// noOutput says why there is nothing to read.
func noOutput(id domain.OperationID, turn projections.Turn, ended bool) error {
	switch {
	case !ended:
		return errNoOutput.With("host %s has printed nothing yet in operation %s", turn.Address, id)
	case turn.Printed > 0:
		return errNoOutput.With("what host %s printed in operation %s, %d bytes, is not kept any more", turn.Address, id, turn.Printed)
	}
	return errNoOutput.With("host %s printed nothing in operation %s", turn.Address, id)
}

// rest gives f what was printed and not read yet.
func rest(printed Printed, f func([]byte)) error {
	for {
		text, err := printed.Next()
		if err != nil || len(text) == 0 {
			return err
		}
		f(text)
	}
}

const textPlain = "text/plain; charset=utf-8"

// writeFor is how long a client may take to take a part of an answer that goes on.
const writeFor = 30 * time.Second

// follow sends what a host prints as it comes, until its turn has ended. Where it
// cannot be sent to that end it is broken off, so that the client can tell.
func (s *Server) follow(w http.ResponseWriter, r *http.Request, printed Printed, ended func() bool) error {
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // that of the request, which would end it; fails where there is none
	now := func() { _ = control.SetWriteDeadline(time.Now()) }
	defer context.AfterFunc(s.closing, now)()
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }() // for what comes next on this connection
	send := func(text []byte) {
		_ = control.SetWriteDeadline(time.Now().Add(writeFor))
		if s.closing.Err() != nil {
			now()
		}
		_, err := w.Write(text)
		if err == nil {
			err = control.Flush()
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
	w.Header().Set("Content-Type", textPlain)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set(gzhttp.HeaderNoCompression, "1") // it would wait until there is enough
	w.WriteHeader(http.StatusOK)
	send(nil)
	for {
		// What a host printed is there before the end of its turn is in the view.
		position, over, changed := s.config.Views.Snapshot().Position, ended(), printed.Changed()
		if err := rest(printed, send); err != nil {
			s.config.Logger.Error("request failed", "method", r.Method, "path", r.URL.Path, "request_id", requestOf(r).id, "error", err)
			panic(http.ErrAbortHandler)
		}
		if over {
			return nil
		}
		s.await(r.Context(), uint64(position)+1, changed)
		if r.Context().Err() != nil || s.closing.Err() != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// await returns when a position is in the view, when changed is closed, or when
// there is no use in waiting any more.
func (s *Server) await(ctx context.Context, position uint64, changed <-chan struct{}) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(s.closing, stop)()
	go func() {
		select {
		case <-changed:
			stop()
		case <-ctx.Done():
		}
	}()
	_ = s.config.Views.WaitFor(ctx, projections.Position(position)) // its error is that of ctx
}
