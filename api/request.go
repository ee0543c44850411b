package api

import (
	"bytes"
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
	"unicode"
	"unicode/utf8"

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
	return parseBody(text)
}

// Bounds of the JSON that clients send.
const (
	maxDepth = 32       // of a value of the body
	maxFree  = 64 << 10 // bytes, where a client may send any JSON
)

// parseBody reads an object of valid UTF-8, in which no key is given twice and no
// value is nested too deeply, wherever in it that would be.
func parseBody(text []byte) (body, error) {
	if !utf8.Valid(text) {
		return nil, domain.ErrInvalid.With("the body must be a JSON object in UTF-8, and is none in UTF-8")
	}
	if err := checkKeys(text); err != nil {
		return nil, err
	}
	var b body
	if err := json.Unmarshal(text, &b); err != nil || b == nil {
		return nil, domain.ErrInvalid.With("the body must be a JSON object")
	}
	return b, nil
}

// checkKeys walks through the whole text. Keys that differ in case only are the
// same: who reads what is recorded may not tell them apart.
func checkKeys(text []byte) error {
	tokens := jsontext.NewDecoder(bytes.NewReader(text), jsontext.AllowDuplicateNames(true)) // which are named below
	path := func() string { return strings.Join(slices.Collect(tokens.StackPointer().Tokens()), ".") }
	var keys []map[string]string // of the objects and lists that are open, by what is the same
	for {
		token, err := tokens.ReadToken()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return domain.ErrInvalid.With("the body must be a JSON object: byte %d is wrong", tokens.InputOffset()+1) // and may be of a secret
		}
		switch token.Kind() {
		case '{', '[':
			if tokens.StackDepth() > maxDepth+1 {
				key, _, _ := strings.Cut(path(), ".")
				return domain.ErrInvalid.At(key, "is nested more than %d levels deep", maxDepth)
			}
			keys = append(keys, map[string]string{})
		case '}', ']':
			keys = keys[:len(keys)-1]
		case '"':
			if kind, n := tokens.StackIndex(tokens.StackDepth()); kind != '{' || n%2 == 0 {
				continue // a value
			}
			key := token.String()
			folded, there := fold(key), keys[len(keys)-1]
			switch before, twice := there[folded]; {
			case twice && before == key:
				return domain.ErrInvalid.At(path(), "is given twice")
			case twice:
				return domain.ErrInvalid.At(path(), "is given twice: %q differs from it in case only", before)
			}
			there[folded] = key
		default: // no key, and nothing that holds one
		}
	}
}

// fold is the same for keys that differ in case only, as strings.EqualFold has it.
func fold(key string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, key)
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

// object is an object of the body, bounded in size; nil where the key is absent.
func (b body) object(key string) (json.RawMessage, error) {
	raw, ok := b[key]
	if !ok {
		return nil, nil
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(raw, &fields) != nil || fields == nil {
		return nil, domain.ErrInvalid.At(key, "must be an object")
	}
	if len(raw) > maxFree {
		return nil, domain.ErrInvalid.At(key, "is longer than %d bytes", maxFree)
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
		return domain.ErrInvalid.At(key, "unknown; the nearest known field is %q", nearest(known, key))
	}
	return nil
}

// nearest is the known word that a client may have meant. What is long is compared
// by its beginning: that takes as many steps as both have letters, multiplied.
func nearest(known []string, word string) string {
	word = word[:min(len(word), 64)]
	return slices.MinFunc(known, func(a, b string) int {
		return levenshtein.ComputeDistance(a, word) - levenshtein.ComputeDistance(b, word)
	})
}
