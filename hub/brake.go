package hub

import "net/http"

// pauseShape says whether the brake on all calls is on.
type pauseShape struct {
	Paused bool `json:"paused"`
}

// getPause tells whether sinks and callbacks are called.
func (h *Hub) getPause(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	return writeJSON(w, pauseShape{h.delivery.Paused()})
}

// postPause puts on the brake for all sinks and callbacks at once, or takes it off. It
// is on disk when it answers; calls in flight end as they would have.
func (h *Hub) postPause(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	var paused, said bool
	err := h.withBody(w, r, []string{typeJSON}, func(body []byte) error {
		return readObject(body, func(s *scanner, name string) (err error) {
			if name != "paused" {
				return errNoMember
			}
			paused, err = s.boolean()
			said = true
			return err
		})
	})
	if err == nil && !said {
		err = refuse(missingField, "paused", "say true or false")
	}
	if err != nil {
		return err
	}
	if err := h.delivery.Pause(r.Context(), paused); err != nil {
		return err
	}
	h.log.Info("all calls", "paused", paused)
	return writeJSON(w, pauseShape{h.delivery.Paused()})
}
