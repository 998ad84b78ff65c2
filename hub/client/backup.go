package client

import (
	"context"
	"net/http"
	"time"
)

// Backup is a copy of the hub's store that the hub keeps.
type Backup struct {
	Name     string    `json:"name"`
	Epoch    string    `json:"epoch"`
	Position string    `json:"position"` // cursor of the newest notice in it
	Created  time.Time `json:"created"`
	Bytes    int64     `json:"bytes"`
	Added    int64     `json:"added,omitempty"` // that no earlier backup has; known when it is made
}

// Backups lists the backups that the hub keeps, the oldest first.
func (c *Client) Backups(ctx context.Context) ([]Backup, error) {
	var out struct {
		Backups []Backup `json:"backups"`
	}
	err := c.get(ctx, "/v1/backups", nil, &out)
	return out.Backups, err
}

// MakeBackup has the hub make a backup, under a name of its own choice if name is
// "", and keep the newest keep of them, all if keep is 0. Everything acknowledged
// before the call is in it. A large store takes minutes the first time.
func (c *Client) MakeBackup(ctx context.Context, name string, keep int) (b Backup, err error) {
	in := struct {
		Name string `json:"name,omitempty"`
		Keep int    `json:"keep,omitempty"`
	}{name, keep}
	err = c.send(ctx, http.MethodPost, "/v1/backups", in, &b)
	return b, err
}
