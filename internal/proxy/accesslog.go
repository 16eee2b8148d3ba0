package proxy

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/backstay-dev/backstay/internal/proxy/wire"
)

// log writes the request's line. It never holds a query string, a header of
// the client's or a cookie.
func (ex *exchange) log(took time.Duration) {
	attrs := make([]slog.Attr, 0, 16)
	attrs = append(attrs,
		slog.String("method", ex.req.Method), slog.String("host", ex.req.Host), slog.String("path", ex.req.URL.Path),
		slog.String("proto", ex.req.Proto), slog.String("client", ex.client.String()),
		slog.Int("status", ex.status), slog.Int64("bytes", ex.bytes), slog.Float64("ms", float64(took.Microseconds())/1000))
	if ex.route != nil {
		attrs = append(attrs, slog.String("route", ex.route.spec.Name), slog.String("outcome", string(wire.Outcomes()[ex.outcome])))
	}
	if s := ex.choice.side; s != nil {
		attrs = append(attrs, slog.String("side", s.name))
	}
	if ex.inst != nil {
		attrs = append(attrs, slog.String("instance", ex.inst.spec.URL))
	}
	if ex.retries > 0 {
		attrs = append(attrs, slog.Int("retries", ex.retries))
	}
	ex.proxy.opts.Access.LogAttrs(ex.req.Context(), slog.LevelInfo, "request", attrs...)
}

// lineBuffer collects lines of a log and writes them at least once a second,
// so that a request does not wait for the disk.
type lineBuffer struct {
	mu  sync.Mutex
	buf *bufio.Writer
	err error
}

func newLineBuffer(w io.Writer) *lineBuffer { return &lineBuffer{buf: bufio.NewWriterSize(w, 64<<10)} }

// Write takes one whole line. After the first error lines are dropped.
func (b *lineBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	_, b.err = b.buf.Write(line)
	return len(line), b.err
}

// run writes out until ctx ends, and once more then.
func (b *lineBuffer) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			b.flush()
		case <-ctx.Done():
			b.flush()
			return
		}
	}
}

func (b *lineBuffer) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = b.buf.Flush()
	}
}
