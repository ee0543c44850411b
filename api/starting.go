package api

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
)

// Starting answers until there is something to serve: /healthz that the program
// runs, all else, /readyz too, with 503 and Retry-After. It knows nobody, so it
// says nothing to anybody.
func Starting(newID func() string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		if r.URL.Path == "/healthz" && r.Method == http.MethodGet {
			header.Set("Content-Type", "text/plain; charset=utf-8")
			_, err := w.Write([]byte("ok\n"))
			_ = ignore(err)
			return
		}
		text, err := json.Marshal(problem{
			Type: "about:blank", Title: http.StatusText(http.StatusServiceUnavailable), Status: http.StatusServiceUnavailable,
			Detail: "not ready: the service is starting", Instance: r.URL.EscapedPath(), RequestID: newID(),
		})
		if err != nil {
			panic(err) // a problem holds nothing that has no JSON
		}
		header.Set("Retry-After", strconv.Itoa(int(math.Ceil(retryAfter.Seconds()))))
		header.Set("Content-Type", "application/problem+json")
		header.Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, err = w.Write(append(text, '\n'))
		_ = ignore(err)
	})
}
