package graph

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// checkAccounts holds what publishers are said to have against the rows, which say
// whose they are. A wrong sum that follows from what was found of the rows is only
// made good. An account that is lost is made anew under a name that no token can have:
// whose it was is not known.
func (c *checker) checkAccounts() error {
	var said, actual []account
	err := c.scan([]byte{spaceAccount}, func(k, v []byte) error {
		key := bytes.Clone(k)
		if len(k) != 1+8 {
			c.badKey(k)
			return nil
		}
		number := binary.BigEndian.Uint64(k[1:])
		a, err := decodeAccount(k, v)
		next := uint64(len(said)) + 1
		for ; next < number && number-next < maxLostAccounts; next++ {
			said = append(said, account{})
		}
		if number != next {
			c.found(key, 0, "its number is beyond those of all accounts", func() { c.delete(key) })
			return nil
		}
		if err != nil {
			a = &account{}
		}
		said = append(said, *a)
		return nil
	})
	if err != nil {
		return err
	}
	actual = make([]account, len(said))
	err = c.scanRows(func(r *row) error {
		if r.owner == 0 {
			return nil
		}
		if r.owner > uint64(len(actual)) {
			id := r.id
			c.found(idKey(spaceRow, id), id, fmt.Sprintf("it is of account %d, which does not exist", r.owner), func() {
				check(c.rewriteRow(id, func(r *row) { r.owner = 0 }))
			})
			return nil
		}
		a := &actual[r.owner-1]
		a.Resources++
		a.Edges += int64(r.ndeps)
		return nil
	})
	follows := c.rep.Found > 0
	for i := range said {
		c.checkAccount(uint64(i)+1, &said[i], &actual[i], follows)
	}
	return err
}

// maxLostAccounts bounds the accounts in a row that are made anew because one lies
// behind them. Publishers are somebody that an operator gave a token to.
const maxLostAccounts = 10_000

func (c *checker) checkAccount(number uint64, said, has *account, follows bool) {
	key := seqKey(spaceAccount, number)
	fix := func() { c.set(key, has.append(nil)) }
	if has.Publisher = said.Publisher; has.Publisher == "" {
		has.Publisher = fmt.Sprintf("\x00lost %d", number)
		c.found(key, 0, "the account is lost: what is on it counts for nobody who publishes", fix)
		return
	}
	if said.Resources != has.Resources || said.Edges != has.Edges {
		c.note(follows, key, 0, fmt.Sprintf("it says %d resources and %d edges, and there are %d and %d",
			said.Resources, said.Edges, has.Resources, has.Edges), fix)
	}
}
