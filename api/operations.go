package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"commissaire/api/authentication"
	"commissaire/commands"
	"commissaire/domain"
	"commissaire/domain/policy"
	"commissaire/projections"
)

var errNoHistory = domain.Refuse(domain.NotFound, "no-history")

func (s *Server) getLatest(kind domain.OperationKind) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		name, err := clusterName(r)
		if err != nil {
			return err
		}
		snapshot, err := s.snapshot(w, r)
		if err != nil {
			return err
		}
		record, ok := snapshot.Latest(name, kind)
		if !ok {
			return domain.ErrNoOperation.With("there is no %s of a cluster %q", kind, name)
		}
		return s.answer(w, r, http.StatusOK, record)
	}
}

func (s *Server) putOperation(kind domain.OperationKind) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		name, err := clusterName(r)
		if err != nil {
			return err
		}
		who, err := s.who(r)
		if err != nil {
			return err
		}
		b, err := s.readBody(r)
		if err != nil {
			return err
		}
		cmd := commands.StartOperation{Kind: kind, Cluster: name, Key: r.Header.Get("Idempotency-Key")}
		if len(cmd.Key) > 256 {
			return domain.ErrInvalid.At("Idempotency-Key", "longer than 256 bytes")
		}
		if err := b.only(operationFields(kind)...); err != nil {
			return err
		}
		if kind == domain.Deploy {
			if cmd.Version, err = b.text("version"); err != nil {
				return err
			}
			if cmd.Version, err = domain.ParseVersion(cmd.Version); err != nil {
				return err
			}
		}
		if cmd.Policy, err = parsePolicy(kind, b); err != nil {
			return err
		}
		if err := b.into("seed", &cmd.Seed, "must be a whole number: the seed of a random order"); err != nil {
			return err
		}
		dry := false
		if err := b.into("dry_run", &dry, "must be true or false"); err != nil {
			return err
		}
		if dry {
			return s.plan(w, r, cmd)
		}
		receipt, err := s.config.Commands.StartOperation(r.Context(), who, cmd)
		if err != nil {
			return err
		}
		snapshot := s.settle(w, r, receipt.Receipt)
		w.Header().Set("Location", base+"/operation/"+string(receipt.ID))
		o, ok := snapshot.Operation(receipt.ID)
		if !ok || receipt.New { // the view is late, or further than its start: this is how it started
			o = &projections.Operation{
				ID: receipt.ID, Kind: kind, Cluster: name, Version: cmd.Version,
				Status: projections.InProcess, StartedAt: projections.Time{Time: receipt.StartedAt},
			}
		}
		return s.answer(w, r, http.StatusCreated, o.Record())
	}
}

// operationFields are those that the body of a PUT that starts one may have.
func operationFields(kind domain.OperationKind) []string {
	fields := append(policy.Fields(kind), "dry_run", "seed")
	if kind == domain.Deploy {
		fields = append(fields, "version")
	}
	return fields
}

// plan answers what would be started. Nothing is, so it is also answered while an
// operation runs.
func (s *Server) plan(w http.ResponseWriter, r *http.Request, cmd commands.StartOperation) error {
	plan, err := s.config.Commands.PlanOperation(r.Context(), cmd)
	if err != nil {
		return err
	}
	snapshot := s.settle(w, r, plan.Receipt)
	return s.answer(w, r, http.StatusOK, snapshot.Plan(plan.Started, cmd.Kind, cmd.Version, plan.Batches, s.config.OnHost))
}

// steer answers a change of an operation that runs.
func (s *Server) steer(f func(context.Context, commands.Who, domain.OperationID) (commands.Receipt, error)) endpoint {
	return func(w http.ResponseWriter, r *http.Request) error {
		return s.steering(w, r, func(ctx context.Context, who commands.Who, id domain.OperationID, _ body) (commands.Receipt, error) {
			return f(ctx, who, id)
		})
	}
}

func (s *Server) steering(w http.ResponseWriter, r *http.Request, f func(context.Context, commands.Who, domain.OperationID, body) (commands.Receipt, error)) error {
	id, err := domain.ParseID[domain.OperationID](param(r, "id"))
	if err != nil {
		return err
	}
	who, b, err := s.change(r)
	if err != nil {
		return err
	}
	receipt, err := f(r.Context(), who, id, b)
	if err != nil {
		return err
	}
	o, ok := s.settle(w, r, receipt).Operation(id)
	if !ok {
		return errLate
	}
	return s.answer(w, r, http.StatusOK, o)
}

// abandon gives an operation up, for a reason that the header or the body has.
func (s *Server) abandon(w http.ResponseWriter, r *http.Request) error {
	return s.steering(w, r, func(ctx context.Context, who commands.Who, id domain.OperationID, b body) (_ commands.Receipt, err error) {
		if who.Reason == "" {
			if who.Reason, err = b.text("reason"); err != nil {
				return commands.Receipt{}, err
			}
			if len(who.Reason) > maxReason {
				return commands.Receipt{}, domain.ErrInvalid.At("reason", "longer than 1024 bytes")
			}
		}
		if who.Reason = strings.TrimSpace(who.Reason); who.Reason == "" {
			return commands.Receipt{}, domain.ErrInvalid.At("reason", "is required: say why the operation is given up, here or in X-Commissaire-Reason")
		}
		return s.config.Commands.AbandonOperation(ctx, who, id)
	})
}

func (s *Server) getOperation(w http.ResponseWriter, r *http.Request) error {
	id, err := domain.ParseID[domain.OperationID](param(r, "id"))
	if err != nil {
		return err
	}
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	o, ok := snapshot.Operation(id)
	if !ok {
		return domain.ErrNoOperation.With("there is no operation %s", id)
	}
	if _, past := asOfQuery(r); !past && identity(r).May(authentication.ReadOutput) {
		if o, err = s.withOutput(o); err != nil {
			return err
		}
	}
	return s.answer(w, r, http.StatusOK, o)
}

const (
	defaultPage = 50
	largestPage = 500
)

func (s *Server) getOperations(w http.ResponseWriter, r *http.Request) error {
	snapshot, err := s.snapshot(w, r)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	limit, after, err := paging(query)
	if err != nil {
		return err
	}
	if query.Has("host") {
		host, err := domain.ParseAddress(query.Get("host"))
		if err != nil {
			return domain.ErrInvalid.At("host", "%v", err)
		}
		query.Set("host", string(host))
	}
	page, last, more := []*projections.Operation{}, uint64(0), false
	for pos, o := range snapshot.Operations(projections.Position(after)) {
		if !wanted(query, o) {
			continue
		}
		if uint64(len(page)) == limit {
			more = true
			break
		}
		page, last = append(page, o), uint64(pos)
	}
	if more {
		next(w, r, last)
	}
	return s.answer(w, r, http.StatusOK, page)
}

// paging is how much of a list is asked for, and after which position in it (0:
// from its beginning).
func paging(query url.Values) (limit, after uint64, err error) {
	if limit, err = number(query, "limit", defaultPage); err != nil {
		return 0, 0, err
	}
	if limit == 0 || limit > largestPage {
		return 0, 0, domain.ErrInvalid.At("limit", "must be from 1 to %d", largestPage)
	}
	after, err = number(query, "after", 0)
	return limit, after, err
}

// next says where the list goes on after the last that is answered.
func next(w http.ResponseWriter, r *http.Request, last uint64) {
	query := r.URL.Query()
	query.Set("after", strconv.FormatUint(last, 10))
	w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, r.URL.EscapedPath(), query.Encode()))
}

func wanted(query url.Values, o *projections.Operation) bool {
	is := func(key, value string) bool { return !query.Has(key) || query.Get(key) == value }
	return is("cluster", string(o.Cluster)) && is("kind", string(o.Kind)) && is("status", o.Status) &&
		(!query.Has("host") || slices.ContainsFunc(o.Hosts, func(t projections.Turn) bool {
			return string(t.Address) == query.Get("host")
		}))
}

func number(query url.Values, key string, otherwise uint64) (uint64, error) {
	if !query.Has(key) {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(query.Get(key), 10, 63)
	if err != nil {
		return 0, domain.ErrInvalid.At(key, "must be a number")
	}
	return n, nil
}

// waitFor waits, bounded, until the view has a position.
func (s *Server) waitFor(ctx context.Context, position uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, viewWait)
	defer cancel()
	return s.config.Views.WaitFor(ctx, projections.Position(position)) == nil
}
