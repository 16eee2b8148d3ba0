package proxy

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// clientIdle is how long a client may neither send the next part of its
// request nor take the next part of a long response.
const clientIdle = time.Minute

// bufferPool is what the reverse proxy copies through.
type bufferPool struct{ pool sync.Pool }

func newBufferPool() *bufferPool {
	return &bufferPool{sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}}
}

func (b *bufferPool) Get() []byte {
	if buf, ok := b.pool.Get().(*[]byte); ok {
		return *buf
	}
	return make([]byte, 32<<10)
}

func (b *bufferPool) Put(buf []byte) { b.pool.Put(&buf) }

// responseBody watches a side send its body: it counts, bounds the silence
// between two parts, and tells a side that broke off from a client that left.
type responseBody struct {
	io.ReadCloser
	ex    *exchange
	timer *time.Timer
	idle  time.Duration
	long  bool
	out   *http.ResponseController
}

func newResponseBody(ex *exchange, body io.ReadCloser, long bool) *responseBody {
	b := &responseBody{ReadCloser: body, ex: ex, idle: ex.route.settings.Timeouts.Idle.Std(), long: long}
	if long {
		b.out = http.NewResponseController(ex.w)
	}
	// Closing under a read is what ends it.
	b.timer = time.AfterFunc(b.idle, func() { _ = body.Close() }) // the read says what became of it
	return b
}

func (b *responseBody) Read(p []byte) (int, error) {
	if b.long {
		_ = b.out.SetWriteDeadline(time.Time{}) // nothing is being written now
	}
	n, err := b.ReadCloser.Read(p)
	b.ex.bytes += int64(n)
	if err != nil {
		silent := !b.timer.Stop()
		switch {
		case errors.Is(err, io.EOF):
		case silent:
			b.ex.broken = errSilent
		case b.ex.req.Context().Err() == nil:
			b.ex.broken = err
		}
		return n, err
	}
	b.timer.Reset(b.idle)
	if b.long {
		_ = b.out.SetWriteDeadline(time.Now().Add(clientIdle)) // where it cannot be set, there is none
	}
	return n, nil
}

func (b *responseBody) Close() error {
	b.timer.Stop()
	return b.ReadCloser.Close()
}

// requestBody bounds how long a client may be silent in the middle of its body.
type requestBody struct {
	io.ReadCloser
	in *http.ResponseController
}

// guardBody bounds the request's body. Of a stream in HTTP/2 (gRPC) silence is
// no sign of anything, and it is left alone.
func (ex *exchange) guardBody() {
	if ex.req.Body == nil || ex.req.Body == http.NoBody {
		return
	}
	// A copy: the server looks at its request's own body to know whether the
	// client still waits to be asked for it (100-continue).
	ex.req = ex.req.WithContext(ex.req.Context())
	if limit := ex.route.settings.MaxBody; limit > 0 {
		ex.req.Body = http.MaxBytesReader(ex.w, ex.req.Body, limit)
	}
	if ex.req.ProtoMajor == 1 || ex.req.ContentLength > 0 {
		conn := http.NewResponseController(ex.w)
		// A side may answer before it has read all. Without this the server would
		// then take the rest of the body away from under the transport.
		_ = conn.EnableFullDuplex() // HTTP/2 always is
		ex.req.Body = &requestBody{ex.req.Body, conn}
	}
}

func (b *requestBody) Read(p []byte) (int, error) {
	_ = b.in.SetReadDeadline(time.Now().Add(clientIdle)) // where it cannot be set, there is none
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		_ = b.in.SetReadDeadline(time.Time{}) // the connection waits for its next request by another bound
	}
	return n, err
}
