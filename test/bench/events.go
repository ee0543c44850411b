package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	listeners = 1000
	changes   = 20 // a second
)

// listen measures how long it takes from the moment before a PUT is sent until
// each of a thousand readers of events, all in this process, has its event.
func (b *bench) listen(ctx context.Context) error {
	s, err := b.service(ctx, "events", map[string]any{"watch": map[string]any{"interval": "1h"}})
	if err != nil {
		return err
	}
	defer s.stop()
	ctx, cancel := context.WithTimeout(ctx, b.span+time.Minute)
	defer cancel()
	var (
		until   atomic.Uint64 // 0: not known yet
		opening = make(chan error, listeners)
		heard   = make([]map[uint64]time.Time, listeners)
		reading sync.WaitGroup
	)
	for i := range heard {
		reading.Go(func() {
			heard[i] = map[uint64]time.Time{}
			_ = hear(ctx, s.address, opening, func(id uint64) bool { // who did not hear all is counted below
				heard[i][id] = time.Now()
				last := until.Load()
				return last == 0 || id < last
			})
		})
	}
	for range listeners {
		if err := <-opening; err != nil {
			return err
		}
	}

	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	sent := map[uint64]time.Time{}
	put := func(n int) (uint64, error) {
		when := time.Now()
		if _, err := conn.Write(request(http.MethodPut, fmt.Sprintf("/api/v0/cluster/event-%d", n), "{}")); err != nil {
			return 0, err
		}
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			return 0, err
		}
		text, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != http.StatusCreated {
			return 0, fmt.Errorf("answered %s: %s, %w", response.Status, text, err)
		}
		position, err := strconv.ParseUint(response.Header.Get("X-Commissaire-Position"), 10, 64)
		sent[position] = when
		return position, err
	}
	tick := time.NewTicker(time.Second / changes)
	defer tick.Stop()
	var last uint64
	for n := range int(b.span.Seconds() * changes) {
		<-tick.C
		if last, err = put(n); err != nil {
			return err
		}
	}
	until.Store(last + 1) // none has heard of that yet
	if _, err := put(-1); err != nil {
		return err
	}
	reading.Wait()

	var took []time.Duration
	for _, one := range heard {
		for position, when := range sent {
			if heardAt, ok := one[position]; ok {
				took = append(took, heardAt.Sub(when))
			}
		}
	}
	if missed := listeners*len(sent) - len(took); missed > 0 {
		return fmt.Errorf("%d of %d events were not heard", missed, listeners*len(sent))
	}
	b.row(fmt.Sprintf("an event to %d readers, %d PUTs a second, from before the PUT", listeners, changes),
		fmt.Sprintf("p50 %s", percentile(took, 50)), fmt.Sprintf("p99 %s", percentile(took, 99)))
	return nil
}

// hear reads a stream of events until next, given the id of each, says that it was
// the last. It tells when the stream has begun.
func hear(ctx context.Context, address string, opening chan<- error, next func(id uint64) bool) error {
	body, err := func() (io.Reader, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		if _, err := conn.Write(request(http.MethodGet, "/api/v0/events", "")); err != nil {
			return nil, err
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return nil, err
		}
		if response.StatusCode != http.StatusOK {
			text, err := io.ReadAll(response.Body)
			return nil, errors.Join(fmt.Errorf("answered %s: %s", response.Status, text), err)
		}
		return response.Body, nil
	}()
	opening <- err
	if err != nil {
		return err
	}
	var id uint64
	for lines := bufio.NewScanner(body); lines.Scan(); {
		if text, ok := bytes.CutPrefix(lines.Bytes(), []byte("id: ")); ok {
			if id, err = strconv.ParseUint(string(text), 10, 64); err != nil {
				return err
			}
		}
		if bytes.HasPrefix(lines.Bytes(), []byte("data: ")) && !next(id) {
			return nil
		}
	}
	return errors.New("the stream ended")
}
