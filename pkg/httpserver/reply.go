package httpserver

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// problem is the one form of an error answer: RFC 9457, as far as this project needs it.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
}

// Problem answers with an error, in the one form that every part of this project uses: application/problem+json with
// title, status and detail.
func Problem(w http.ResponseWriter, status int, detail string) {
	reply(w, status, "application/problem+json", problem{Title: http.StatusText(status), Status: status, Detail: detail})
}

// JSON answers with v as JSON.
func JSON(w http.ResponseWriter, status int, v any) {
	reply(w, status, "application/json", v)
}

func reply(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, contentType = http.StatusInternalServerError, "application/problem+json"
		body = []byte(`{"title":"Internal Server Error","status":500,"detail":"the answer could not be written as JSON"}`)
	}
	body = append(body, '\n')
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away is nobody's error
}

// writer remembers the status and, for requests that match no route, turns the mux's plain text into a Problem.
type writer struct {
	http.ResponseWriter
	status int
}

func (w *writer) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController flush and set deadlines.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// statusOnly takes the mux's own 404, 405 and redirects apart: header and status are kept, the text is not.
type statusOnly struct {
	header http.Header
	status int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) Write(b []byte) (int, error) { return len(b), nil }
func (s *statusOnly) WriteHeader(status int)      { s.status = status }
