package dashboard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

const (
	// mostStreams bounds how many pages are kept fresh at once; others are told to load anew.
	mostStreams = 50
	// streamTime is how long one stream lasts: then the browser opens another one, and is asked
	// again who it is.
	streamTime = 10 * time.Minute
	// writeTime bounds how long a browser may take to read what is sent.
	writeTime = 10 * time.Second
)

// events sends the parts of a page that have changed, for as long as somebody looks.
func (d *Dashboard) events(w http.ResponseWriter, r *http.Request) {
	part := r.URL.Query().Get("page")
	body := map[string]func() any{
		"overview": func() any { return d.overviewOf(r.Context()) },
		"replicas": func() any { return d.replicasOf(r.Context()) },
		"stuck":    func() any { return d.stuckOf(r.Context()) },
	}[part]
	if body == nil {
		refuse(w, http.StatusBadRequest, "page: want overview, replicas or stuck")
		return
	}
	if d.streaming.Add(1) > mostStreams {
		d.streaming.Add(-1)
		w.Header().Set("Retry-After", "60")
		refuse(w, http.StatusServiceUnavailable, "Too many pages are open.")
		return
	}
	defer d.streaming.Add(-1)
	w.Header().Set("Content-Type", "text/event-stream")
	control := http.NewResponseController(w)
	end := time.NewTimer(streamTime)
	defer end.Stop()
	tick := time.NewTicker(fresh)
	defer tick.Stop()
	var sent []byte
	for {
		var html bytes.Buffer
		if err := templates.ExecuteTemplate(&html, part+".html", body()); err != nil {
			d.log.Error("a page of the dashboard cannot be made", "page", part, "error", err)
			return
		}
		line := []byte(":\n\n") // says that the stream lives
		if !bytes.Equal(sent, html.Bytes()) {
			sent = bytes.Clone(html.Bytes())
			text, err := json.Marshal(string(sent))
			if err != nil {
				return
			}
			line = fmt.Appendf(nil, "data: %s\n\n", text)
		}
		_ = control.SetWriteDeadline(time.Now().Add(writeTime)) // not every server has deadlines
		if _, err := w.Write(line); err != nil {
			return
		}
		if err := control.Flush(); err != nil {
			return
		}
		select {
		case <-tick.C:
		case <-end.C:
			return
		case <-d.ended:
			return
		case <-r.Context().Done():
			return
		}
	}
}
