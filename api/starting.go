package api

import "net/http"

// Starting answers until there is something to serve: /healthz that the program
// runs, all else, /readyz too, with 503 and Retry-After. It knows nobody, so it
// says nothing to anybody.
func Starting(newID func() string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		withoutSlash(r.URL)
		if r.URL.Path == "/healthz" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, err := w.Write([]byte("ok\n"))
			_ = ignore(err)
			return
		}
		problem{
			Status: http.StatusServiceUnavailable, Detail: "not ready: the service is starting",
			Instance: r.URL.EscapedPath(), RequestID: newID(),
		}.write(w, retryAfter)
	})
}
