// Package client asks a running service, as one user, and reads what it answers. The demo
// and the command projections share it.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Base is the path below which the API is.
const Base = "/api/v0"

// Client asks a service, as one user.
type Client struct {
	Endpoint       string // URL without path, as https://commissaire.example.com
	User, Password string
	Transport      http.RoundTripper
}

// Read reads a client from a file: a JSON object with endpoint, username and password.
func Read(path string) (*Client, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var file struct{ Endpoint, Username, Password string }
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("%s must have a JSON object with endpoint, username and password: %w", path, err)
	}
	if !strings.Contains(file.Endpoint, "://") {
		return nil, fmt.Errorf("the endpoint in %s must be a URL, as in https://commissaire.example.com", path)
	}
	return &Client{Endpoint: strings.TrimSuffix(file.Endpoint, "/"), User: file.Username, Password: file.Password, Transport: http.DefaultTransport}, nil
}

// ask makes a request. It returns the body and the status of an answer, also of
// one that is a problem.
func (c *Client) ask(ctx context.Context, method, path string, body []byte, headers map[string]string) (text []byte, answer *http.Response, err error) {
	request, err := http.NewRequestWithContext(ctx, method, c.Endpoint+Base+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	request.SetBasicAuth(c.User, c.Password)
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	answer, err = c.Transport.RoundTrip(request)
	if err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer func() { _ = answer.Body.Close() }()
	if text, err = io.ReadAll(answer.Body); err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return text, answer, nil
}

// Do makes a request below Base. It returns the body and the status of a successful
// answer; anything but success is an error.
func (c *Client) Do(ctx context.Context, method, path string, body []byte, headers map[string]string) ([]byte, *http.Response, error) {
	text, answer, err := c.ask(ctx, method, path, body, headers)
	if err == nil && answer.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, text)
	}
	return text, answer, err
}

// Get reads what a path names.
func Get[T any](ctx context.Context, c *Client, path string) (value T, err error) {
	text, _, err := c.Do(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return value, err
	}
	return value, Parse(path, text, &value)
}

// Follow reads what a path names, now and whenever the service has recorded
// something since, until seen returns true or an error. It asks for what is newer
// than the last answer, and the service answers when there is such a thing.
func Follow[T any](ctx context.Context, c *Client, path string, seen func(T) (bool, error)) error {
	headers := map[string]string{}
	for {
		text, answer, err := c.ask(ctx, http.MethodGet, path, nil, headers)
		switch {
		case err != nil:
			return err
		case answer.StatusCode == http.StatusServiceUnavailable && len(headers) > 0:
			continue // nothing was recorded for a while
		case answer.StatusCode != http.StatusOK:
			return fmt.Errorf("GET %s: %s: %s", path, answer.Status, text)
		}
		var value T
		if err := Parse(path, text, &value); err != nil {
			return err
		}
		if enough, err := seen(value); enough || err != nil {
			return err
		}
		position, err := strconv.ParseUint(answer.Header.Get("X-Commissaire-Position"), 10, 64)
		if err != nil {
			return fmt.Errorf("GET %s: the position of the answer: %w", path, err)
		}
		headers["X-Commissaire-At-Least"] = strconv.FormatUint(position+1, 10)
	}
}

// Parse reads the JSON of an answer to a request for path.
func Parse(path string, text []byte, value any) error {
	if err := json.Unmarshal(text, value); err != nil {
		return fmt.Errorf("GET %s: the answer: %w", path, err)
	}
	return nil
}

// Time is a time as the API writes it.
type Time struct{ time.Time }

// UnmarshalJSON reads 2015-12-17T15:48:18.710454, which is UTC; "" and null are
// the zero time.
func (t *Time) UnmarshalJSON(data []byte) (err error) {
	var text string
	if err := json.Unmarshal(data, &text); err != nil || text == "" {
		return err
	}
	t.Time, err = time.Parse("2006-01-02T15:04:05.999999", text)
	return err
}
