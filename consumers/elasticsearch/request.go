package elasticsearch

import "sync"

// A request is some documents in the form that _bulk takes.
type request struct {
	body []byte
	docs []doc
	sent *payload // of the body, when it was sent last
}

// A doc is one document of a request: an action line and a source line.
type doc struct {
	record     int // index into the batch's records
	start, end int // in the body
}

// only gives a request for some of this one's documents.
func (q *request) only(docs []doc) *request {
	size := 0
	for _, d := range docs {
		size += d.end - d.start
	}
	out := &request{body: make([]byte, 0, size), docs: make([]doc, 0, len(docs))}
	for _, d := range docs {
		start := len(out.body)
		out.body = append(out.body, q.body[d.start:d.end]...)
		out.docs = append(out.docs, doc{d.record, start, len(out.body)})
	}
	return out
}

// requests are those whose memory can be used again, since to clear a few megabytes for each, and to collect them, is a
// good part of the work.
type requests struct{ pool sync.Pool }

// get gives an empty request. A new one has room for so many bytes and documents.
func (r *requests) get(bytes, docs int) *request {
	if q, ok := r.pool.Get().(*request); ok {
		return q
	}
	return &request{body: make([]byte, 0, bytes), docs: make([]doc, 0, docs)}
}

// put takes a request back that was answered, unless net/http may still read its body: what follows in the same memory
// would be sent in its place.
func (r *requests) put(q *request) {
	if q.sent == nil || !q.sent.isIdle() {
		return
	}
	q.body, q.docs, q.sent = q.body[:0], q.docs[:0], nil
	r.pool.Put(q)
}
