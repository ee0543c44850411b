package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const apiBase = "/api/v0"

// client asks a service, as one user.
type client struct {
	endpoint       string
	user, password string
	transport      http.RoundTripper
}

// ask makes a request. It returns the body and the status of an answer, also of
// one that is a problem.
func (c *client) ask(ctx context.Context, method, path string, body []byte, headers map[string]string) (text []byte, answer *http.Response, err error) {
	request, err := http.NewRequestWithContext(ctx, method, c.endpoint+apiBase+path, bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	request.SetBasicAuth(c.user, c.password)
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	answer, err = c.transport.RoundTrip(request)
	if err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer func() { _ = answer.Body.Close() }()
	if text, err = io.ReadAll(answer.Body); err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return text, answer, nil
}

// succeed is ask where anything but success is an error.
func (c *client) succeed(ctx context.Context, method, path string, body []byte, headers map[string]string) ([]byte, *http.Response, error) {
	text, answer, err := c.ask(ctx, method, path, body, headers)
	if err == nil && answer.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, text)
	}
	return text, answer, err
}

// fetch reads what a path names.
func fetch[T any](ctx context.Context, c *client, path string) (value T, err error) {
	text, _, err := c.succeed(ctx, http.MethodGet, path, nil, nil)
	if err != nil {
		return value, err
	}
	return value, parse(path, text, &value)
}

// follow reads what a path names, now and whenever the service has recorded
// something since, until seen returns true or an error. It asks for what is newer
// than the last answer, and the service answers when there is such a thing.
func follow[T any](ctx context.Context, c *client, path string, seen func(T) (bool, error)) error {
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
		if err := parse(path, text, &value); err != nil {
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

func parse(path string, text []byte, value any) error {
	if err := json.Unmarshal(text, value); err != nil {
		return fmt.Errorf("GET %s: the answer: %w", path, err)
	}
	return nil
}

// moment is a time as the API writes it.
type moment struct{ time.Time }

// UnmarshalJSON reads 2015-12-17T15:48:18.710454, which is UTC; "" and null are
// the zero time.
func (m *moment) UnmarshalJSON(data []byte) (err error) {
	var text string
	if err := json.Unmarshal(data, &text); err != nil || text == "" {
		return err
	}
	m.Time, err = time.Parse("2006-01-02T15:04:05.999999", text)
	return err
}
