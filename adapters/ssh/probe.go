package ssh

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"commissaire/commands/process"
	"commissaire/domain"
)

// Probe asks services of hosts from here, past SSH and any jump host, where Reach
// allows it.
type Probe struct {
	dialer *net.Dialer
	client *http.Client
}

var _ process.Probe = Probe{}

// NewProbe makes a Probe. It follows no redirects, which could lead to another
// host, and uses no proxy. TLS is verified.
func NewProbe(reach Reach) Probe {
	dialer := &net.Dialer{Control: reach.Control}
	return Probe{dialer, &http.Client{
		Transport:     &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// TCP implements process.Probe.
func (p Probe) TCP(ctx context.Context, host domain.Address, port int) error {
	conn, err := p.dialer.DialContext(ctx, "tcp", net.JoinHostPort(string(host), strconv.Itoa(port)))
	if err != nil {
		return fmt.Errorf("connect to port %d: %w", port, err)
	}
	return conn.Close()
}

// HTTP implements process.Probe.
func (p Probe) HTTP(ctx context.Context, host domain.Address, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return fmt.Errorf("ask %q: %w", address, err)
	}
	if port := u.Port(); port != "" {
		u.Host = net.JoinHostPort(string(host), port)
	} else if u.Host = string(host); net.ParseIP(u.Host) != nil && net.ParseIP(u.Host).To4() == nil {
		u.Host = "[" + u.Host + "]"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", address, err)
	}
	response, err := p.client.Do(r)
	if err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	_, _ = io.CopyN(io.Discard, response.Body, 1<<10) // of no interest
	_ = response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return fmt.Errorf("GET %s was answered %s", u, response.Status)
	}
	return nil
}
