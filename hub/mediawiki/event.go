package mediawiki

import (
	"fmt"
	"strconv"
	"time"

	"github.com/freshwire/freshwire/hub/client"
)

// Types of the resources.
const (
	TypeContent = "content"
	TypeExists  = "exists"
	TypeFile    = "file"
	TypeMembers = "members"
	TypeHTML    = "html"
)

// Revision is one saved revision of a page.
type Revision struct {
	Page string // URI
	ID   int64
	SHA1 string // of the content, which a null edit or a protection leaves alone
	At   time.Time
}

// Edited returns what a new revision of an existing page makes: the content has
// a new version. That the page exists is no news.
func Edited(r Revision) []client.Update { return []client.Update{content(r)} }

// Created returns what the first revision of a page makes, also one that an
// undeletion brings back: there is content, and links to the page turn blue.
func Created(r Revision) []client.Update {
	return []client.Update{content(r), existence(r.Page, "1", r.ID, r.At)}
}

// Deleted returns what the deletion of a page makes, whose last revision was r
// and which was deleted at r.At: its rendering and its content are gone, and links
// to the page turn red. The rendering goes first, so that nobody is asked to make
// it from content that is gone.
func Deleted(r Revision) []client.Update {
	gone := func(uri, typ string) client.Update {
		return client.Update{ID: unique("deleted", r.ID, r.At), URI: uri, Type: typ, Action: client.ActionDelete, At: r.At}
	}
	return []client.Update{
		gone(Aspect(r.Page, Canonical), TypeHTML), gone(r.Page, TypeContent), existence(r.Page, "0", r.ID, r.At),
	}
}

func content(r Revision) client.Update {
	return client.Update{
		ID: unique("revision", r.ID, r.At), URI: r.Page, Type: TypeContent,
		Version: strconv.FormatInt(r.ID, 10), Hash: r.SHA1, At: r.At, Deps: []client.Dep{},
	}
}

func existence(page, version string, revision int64, at time.Time) client.Update {
	return client.Update{
		ID: unique("exists="+version, revision, at), URI: Aspect(page, Exists), Type: TypeExists,
		Version: version, Hash: version, At: at, Deps: []client.Dep{},
	}
}

// Uploaded returns what a new version of a file makes. page is the URI of its
// description page, sha1 identifies the bytes.
func Uploaded(page, sha1 string, at time.Time) []client.Update {
	return []client.Update{{
		ID: fmt.Sprintf("file:%s:%d", sha1, at.UnixMicro()), URI: Aspect(page, File), Type: TypeFile,
		Version: sha1, Hash: sha1, At: at, Deps: []client.Dep{},
	}}
}

// Rendering is one rendering of a page.
type Rendering struct {
	Page   string    // URI
	Aspect string    // which rendering; "" means Canonical
	Hash   string    // of the HTML
	Began  time.Time // before the first dependency was read
	Token  string    // of the notice that asked for it; "" if none did
	Deps   []client.Dep
}

// Rendered returns what a rendering makes. All renderings of a page share its
// bucket, so that a cache can drop them together.
func Rendered(r Rendering) client.Update {
	if r.Aspect == "" {
		r.Aspect = Canonical
	}
	return client.Update{
		ID: fmt.Sprintf("html:%s:%d", r.Hash, r.Began.UnixMicro()), URI: Aspect(r.Page, r.Aspect), Type: TypeHTML,
		Hash: r.Hash, At: r.Began, Token: r.Token, Deps: append([]client.Dep{}, r.Deps...), Buckets: []string{r.Page},
	}
}

// unique returns the id of what happened to a revision. It carries the time,
// because a revision can be deleted and brought back more than once.
func unique(what string, revision int64, at time.Time) string {
	return fmt.Sprintf("%s:%d:%d", what, revision, at.UnixMicro())
}
