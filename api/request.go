package api

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"commissaire/api/authentication"
	"commissaire/domain"

	"github.com/agnivade/levenshtein"
	"github.com/go-chi/chi/v5"
	"github.com/go-json-experiment/json/jsontext"
)

// request is what is known of a request beside what it says itself: its id, its
// route and, once that is established, who asks.
type request struct {
	context.Context
	route    *chi.Context
	id       string
	identity authentication.Identity
}

type requestKey struct{}

// Value implements context.Context. One context holds it all, because every
// request pays for each.
func (r *request) Value(key any) any {
	switch key {
	case requestKey{}:
		return r
	case chi.RouteCtxKey:
		return r.route
	}
	return r.Context.Value(key)
}

func requestOf(r *http.Request) *request {
	of, ok := r.Context().Value(requestKey{}).(*request)
	if !ok {
		return &request{} // a problem before anything was known
	}
	return of
}

func identity(r *http.Request) authentication.Identity { return requestOf(r).identity }

// param is a part of the path, unescaped.
func param(r *http.Request, name string) string {
	text := chi.URLParam(r, name)
	if r.URL.RawPath == "" {
		return text
	}
	plain, err := url.PathUnescape(text)
	if err != nil {
		return text
	}
	return plain
}

func clusterName(r *http.Request) (domain.ClusterName, error) {
	return domain.ParseName[domain.ClusterName](param(r, "name"))
}

func address(r *http.Request) (domain.Address, error) { return domain.ParseAddress(param(r, "host")) }

// body is the JSON object of a request: keys to values that are not yet read.
// Unknown keys are ignored, as clients send extra ones.
type body map[string]json.RawMessage

func (s *Server) readBody(r *http.Request) (body, error) {
	limit := s.config.MaxBody
	var from io.Reader = http.MaxBytesReader(nil, r.Body, int64(limit))
	if strings.EqualFold(r.Header.Get("Content-Encoding"), "gzip") {
		unzipped, err := gzip.NewReader(from)
		if errors.Is(err, io.EOF) {
			return body{}, nil // it is empty
		}
		if err != nil {
			return nil, domain.ErrInvalid.With("the body is not gzip, though Content-Encoding says so")
		}
		from = unzipped
	}
	text, err := io.ReadAll(io.LimitReader(from, int64(limit)+1))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge), len(text) > limit:
		return nil, fmt.Errorf("%w: more than %d bytes", errTooLarge, limit)
	case err != nil:
		return nil, domain.ErrInvalid.With("the body could not be read to its end")
	case len(strings.TrimSpace(string(text))) == 0:
		return body{}, nil
	}
	var b body
	if err := json.Unmarshal(text, &b); err != nil || b == nil {
		return nil, domain.ErrInvalid.With("the body must be a JSON object")
	}
	return b, nil
}

// str is a string of the body; nil where the key is absent.
func (b body) str(key string) (*string, error) {
	raw, ok := b[key]
	if !ok {
		return nil, nil
	}
	var value *string
	if json.Unmarshal(raw, &value) != nil || value == nil {
		return nil, domain.ErrInvalid.At(key, "must be a string")
	}
	return value, nil
}

// text is a string of the body, "" where the key is absent.
func (b body) text(key string) (string, error) {
	value, err := b.str(key)
	if err != nil || value == nil {
		return "", err
	}
	return *value, nil
}

// into reads a value of the body; where the key is absent it stays as it is.
func (b body) into(key string, value any, must string) error {
	if raw, ok := b[key]; ok && (string(raw) == "null" || json.Unmarshal(raw, value) != nil) {
		return domain.ErrInvalid.At(key, "%s", must)
	}
	return nil
}

// object is an object of the body; nil where the key is absent.
func (b body) object(key string) (json.RawMessage, error) {
	raw, ok := b[key]
	if !ok {
		return nil, nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		return nil, domain.ErrInvalid.At(key, "must be an object")
	}
	// It is recorded as it is, and what cannot be read back stops all views.
	if !jsontext.Value(raw).IsValid() {
		return nil, domain.ErrInvalid.At(key, "must be an object of valid UTF-8, in which no name is there twice")
	}
	return raw, nil
}

// same refuses a key of the body that contradicts the path.
func (b body) same(key, path string) error {
	value, err := b.str(key)
	if err == nil && value != nil && *value != path {
		return domain.ErrInvalid.At(key, "%.128q contradicts the path, which says %q", *value, path)
	}
	return err
}

// addresses is a required list of addresses.
func (b body) addresses(key string) ([]domain.Address, error) {
	var texts []string
	raw, ok := b[key]
	if !ok {
		return nil, domain.ErrInvalid.At(key, "is required: a list of addresses")
	}
	if json.Unmarshal(raw, &texts) != nil || texts == nil {
		return nil, domain.ErrInvalid.At(key, "must be a list of addresses")
	}
	all := make([]domain.Address, len(texts))
	for i, text := range texts {
		parsed, err := domain.ParseAddress(text)
		if err != nil {
			return nil, domain.ErrInvalid.At(key, "%v", err)
		}
		all[i] = parsed
	}
	return all, nil
}

// only refuses keys that are not known: a misspelt policy must not run.
func (b body) only(known ...string) error {
	for key := range b {
		if slices.Contains(known, key) {
			continue
		}
		nearest := slices.MinFunc(known, func(a, b string) int {
			return levenshtein.ComputeDistance(a, key) - levenshtein.ComputeDistance(b, key)
		})
		return domain.ErrInvalid.At(key, "unknown; the nearest known field is %q", nearest)
	}
	return nil
}
