/* Iterations of a single group, one after the other: what `descent.Crew` and `interior.Walk` do with many. They end where
   the barrier problem is solved, `Crew.look` has something to decide, or no step leads anywhere.
*/
#include "../tape/_tape.h"
#include "_frame.h"
#include "_kernels.h"

/* Everything known at a point, after the point itself. */
enum {
    F = POINT, RUNNING, C, JACOBIAN, HESSIAN, END_COST, END_C, END_SLOPE, END_JACOBIAN, END_HESSIAN, STAGE, GAP, PATH, TERMINAL,
    THETA, PHI, BENT, SLOPE, COSTATE, RIGHT, BACK, GRADIENT, PULL, AIM, DUAL, PRIMAL, DISTANCE, BOUGHT, KNOWN
};
enum { DX, DU, DP, DNODES, DCOSTATES, DMULTIPLIERS, STEP_PATH, STEP_Y, STEP_END, DERIVATIVE, BEND, LENGTH, REACH, STEP };
enum { MU, ERROR, THETA_MAX, CORNERS, STEPS, FAIRLY, DELTA, LAST_DELTA, STATE };
enum {
    ACCURACY, MU_END, MOST_BOUGHT, STEPS_TO_GO, KAPPA, CLEAR, FASTER, POWER, FAIR, NEARLY, CURVATURE, SHORT, TRIES, BOUNDARY, SHRINK,
    GROW, ARMIJO, MARGIN, CAREFUL, NONLINEAR, FIRST_STEPS, HALVINGS, LONGEST, RULES
};
enum { MOVED, STUCK, STOPPED, FAILED }; /* what has become of a step */
enum { ON, ASK, DONE };                  /* what is to be done at a point */
enum { VALUES, DERIVATIVES, END_VALUES, END_DERIVATIVES, TAPES };
enum { SYSTEM = 8, RESIDUALS = 4 };

/* Where the march stands: the arrays of its point and of the model there, which may stand in those of another point; and
   room for steps, for what a Newton system has on its right, for corrected residuals, and for a shifted Hessian. */
typedef struct {
    Frame frame;
    double **sets[3]; /* the first is where it begins, and is not written to */
    int point, model, room, count, looks;
    double *times, *rules, *state, *filter, *seen; /* corners and looks are columns of two rows */
    double *right[SYSTEM], *minus[2], *corrected[RESIDUALS], *shifted;
    double *first[STEP], *second[STEP];
    Tape tapes[TAPES];
    PyObject *proceed;
} March;

static inline double smaller(double a, double b) { return a < b ? a : b; }

static double unit(const March *y) { return y->frame.constants[SIZE][0] / y->frame.constants[DURATION][0]; }

static double **here(const March *y) { return y->sets[y->point]; }
static double **known(const March *y) { return y->sets[y->model]; }

static void go(March *y, int point)
{
    y->point = point;
    memcpy(y->frame.point, y->sets[point], sizeof y->frame.point);
}

/* --------------------------------------------------------------------------------------------------------- barrier */

static double largest_error(double *const *errors) { return larger(larger(errors[0][0], errors[1][0]), errors[2][0]); }

/* Error below which a barrier problem counts as solved. */
static double enough(const double *rules, double hat) { return smaller(rules[KAPPA] * hat, rules[CLEAR]); }

static void find_errors(const March *y, double **at, double **own, double **errors)
{
    worst(
        &y->frame,
        (double *[]){own[SLOPE], own[COSTATE], at[JACOBIAN], own[STAGE], own[GAP], own[PATH], own[TERMINAL], at[END_SLOPE], at[END_JACOBIAN]},
        errors
    );
}

/* The barrier as much lower as the point allows, as in `Crew._lower_barrier`. */
static void lower(March *y)
{
    double *const rules = y->rules, *const state = y->state, one = unit(y), found[4], **at = here(y), **own = known(y);
    double *errors[] = {(double *)found, (double *)found + 1, (double *)found + 2, (double *)found + 3};
    int lowered = 0;
    for (int tries = 0; tries < 4; tries++) {
        const double hat = state[MU] / one;
        if (!(state[ERROR] <= enough(rules, hat)) || state[MU] <= rules[MU_END])
            break;
        state[MU] = larger(rules[MU_END], one * smaller(rules[FASTER] * hat, pow(hat, rules[POWER])));
        lowered = 1;
        find_errors(y, at, own, errors);
        state[ERROR] = largest_error(errors);
    }
    if (!lowered)
        return;
    y->model = y->point ? y->point : 1;
    own = known(y);
    measure(&y->frame, at + F, at + END_COST, own + STAGE);
    quadratic(&y->frame, at + F, own[PATH], own + BENT);
    for (int i = 0; i < 4; i++)
        own[DUAL + i][0] = found[i];
    state[CORNERS] = 0.0;
    state[THETA_MAX] = larger(1e4 * larger(1.0, own[THETA][0]), 1.0);
}

/* ------------------------------------------------------------------------------------------------------------ step */

/* Newton step of the Hessian shifted by δ, from some residuals (stages, gaps, path, end): 1, 0 if there is none, −1 if there
   is no memory. */
static int direct(March *y, double **residuals, double **d)
{
    const Frame *f = &y->frame;
    const int N = f->N, s = f->s, v = f->v, D = f->D;
    double *const *c = f->constants, **at = here(y), **own = known(y), **right = y->right, *hessian = own[BENT];
    if (y->state[DELTA] > 0.0) {
        const double shift = y->state[DELTA] * unit(y);
        memcpy(y->shifted, hessian, sizeof(double) * N * s * D * D);
        for (int point = 0; point < N * s; point++)
            for (int a = 0; a < D; a++)
                y->shifted[((size_t)point * D + a) * D + a] += shift / (c[SCALE_Z][a] * c[SCALE_Z][a]);
        hessian = y->shifted;
    }
    arrange(
        f,
        (double *[]){at[JACOBIAN], own[RIGHT], own[PULL], own[AIM], own[PATH], at[END_SLOPE], at[END_JACOBIAN], residuals[2], residuals[3]},
        right
    );
    for (int i = 0; i < N * s * v; i++)
        y->minus[0][i] = -residuals[0][i];
    for (int i = 0; i < N * v; i++)
        y->minus[1][i] = -residuals[1][i];
    const char active = 1;
    int found;
    Py_BEGIN_ALLOW_THREADS
    found = newton_step(
        (int[]){N, s, 1, v, f->m, f->k}, (double *[]){c[ALPHA], c[ADJOINT], c[ROW], c[D_], c[B_]},
        (double *[]){c[H], hessian, at[JACOBIAN], f->e ? right[1] : own[RIGHT], y->minus[0], y->minus[1], own[BACK]}, v + 1 + f->e,
        (double *[]){right[2], right[3], right[4], at[END_HESSIAN], at[END_JACOBIAN], right[5], right[6], right[7]}, &active, d
    );
    Py_END_ALLOW_THREADS
    if (found > 0)
        meaning(
            f,
            (double *[]){at[JACOBIAN], hessian, own[GRADIENT], own[PULL], right[0], own[PATH], own[TERMINAL], at[END_SLOPE], at[END_JACOBIAN], at[END_HESSIAN]},
            (double *[]){d[DX], d[DU], d[DNODES], d[DMULTIPLIERS]}, d + STEP_PATH
        );
    return found;
}

/* Newton step of positive curvature, the Hessian shifted where that needs it, as in `Walk._regular_direction`. */
static int regular_direction(March *y, double **d)
{
    double *const rules = y->rules, *const state = y->state;
    for (int tries = 0; tries < 40; tries++) {
        const int found = direct(y, known(y) + STAGE, d);
        if (found < 0)
            return found;
        if (found && d[BEND][0] >= rules[CURVATURE] * d[LENGTH][0] * y->frame.constants[SIZE][0]) {
            if (state[DELTA] > 0.0)
                state[LAST_DELTA] = state[DELTA];
            return 1;
        }
        state[DELTA] = state[DELTA] > 0.0 ? 8.0 * state[DELTA] : larger(1e-4, state[LAST_DELTA] / 3.0);
        if (state[DELTA] > 1e20)
            break;
    }
    return 0;
}

/* Share of the way to a bound that a step may go. */
static double share_of_way(const March *y)
{
    return larger(y->rules[BOUNDARY], 1.0 - y->state[MU] / unit(y));
}

/* How much of `times` a step there is room for, at most 1, as in `Walk._room`. */
static double room_for(const March *y, double **d, double times)
{
    double share = share_of_way(y) / times, alpha;
    reach(&y->frame, (double *[]){d[DU], d[STEP_PATH], d[STEP_END], d[DNODES]}, &share, &alpha);
    if (y->rules[SHRINK] > 0.0) {
        const int last = y->frame.v - 1;
        const double T = here(y)[NODES][last], dT = times * d[DNODES][last];
        const double most = larger(-dT / (y->rules[SHRINK] * T), dT / (y->rules[GROW] * T));
        const double own = most > 1.0 ? 1.0 / most : isnan(most) ? most : 1.0;
        alpha = alpha < own ? alpha : own;
    }
    return alpha;
}

static void swap(March *y)
{
    double *d[STEP];
    memcpy(d, y->first, sizeof d);
    memcpy(y->first, y->second, sizeof d);
    memcpy(y->second, d, sizeof d);
}

/* Where bounds cut the step short, a shorter one of a shifted Hessian, if it promises more, as in `Walk._longer`. */
static int lengthen(March *y, double *alpha)
{
    double *const state = y->state;
    for (int tries = 0; tries < (int)y->rules[TRIES] && *alpha < y->rules[SHORT]; tries++) {
        const double before = state[DELTA];
        state[DELTA] = larger(8.0 * before, larger(state[LAST_DELTA] / 3.0, 1e-2));
        const int found = direct(y, known(y) + STAGE, y->second);
        if (found < 0)
            return found;
        const double longer = found ? room_for(y, y->second, 1.0) : 0.0;
        const double promised = *alpha * -y->first[DERIVATIVE][0];
        if (!(found && y->second[BEND][0] > 0.0 && longer * -y->second[DERIVATIVE][0] > 1.5 * promised)) {
            state[DELTA] = before;
            break;
        }
        swap(y);
        *alpha = longer, state[LAST_DELTA] = state[DELTA];
    }
    return 1;
}

/* ------------------------------------------------------------------------------------------------------------ trials */

/* The functions at a point that has been written, and its residuals. */
static void evaluate(March *y, int target, int whole)
{
    const Frame *f = &y->frame;
    double **to = y->sets[target];
    const int v = f->v, e = f->e, k = f->k, D = f->D, before = y->point;
    const Rows in[] = {{y->times, 1}, {to[X], v}, {to[U], f->m}, {to[P], v}, {to[Y], e}};
    const Rows out[] = {{to[F], v}, {to[RUNNING], 1}, {to[C], e}, {to[JACOBIAN], (v + 1 + e) * D}, {to[HESSIAN], D * D}};
    const Rows last[] = {{to[NODES] + (size_t)f->N * v, v}, {to[NU], k}};
    const Rows ends[] = {{to[END_COST], 1}, {to[END_C], k}, {to[END_SLOPE], v}, {to[END_JACOBIAN], k * v}, {to[END_HESSIAN], v * v}};
    Py_BEGIN_ALLOW_THREADS
    run_tape(&y->tapes[whole ? DERIVATIVES : VALUES], (Py_ssize_t)f->N * f->s, whole ? 5 : 3, in, whole ? 5 : 3, out);
    run_tape(&y->tapes[whole ? END_DERIVATIVES : END_VALUES], 1, whole ? 2 : 1, last, whole ? 5 : 2, ends);
    Py_END_ALLOW_THREADS
    go(y, target);
    measure(f, to + F, to + END_COST, to + STAGE);
    go(y, before);
}

/* The same, if it goes on: 1, 0 if it is time to stop, −1 if there is an error. */
static int visit(March *y, int target, int whole)
{
    PyObject *answer = PyObject_CallNoArgs(y->proceed);
    const int good = answer ? PyObject_IsTrue(answer) : -1;
    Py_XDECREF(answer);
    if (good > 0)
        evaluate(y, target, whole);
    return good;
}

/* Primal variables after a step. */
static void place(March *y, double **to, double **d, double alpha)
{
    shift(
        &y->frame, &alpha, (double *[]){d[DX], d[DU], d[DNODES], d[STEP_PATH], d[STEP_END]},
        (double *[]){to[X], to[U], to[NODES], to[SLACK], to[END_SLACK]}
    );
}

static int try_at(March *y, int target, double **d, double alpha)
{
    place(y, y->sets[target], d, alpha);
    return visit(y, target, 0);
}

/* The point after a step; the multipliers of bounds follow `moves`. */
static int move_to(March *y, int target, double **d, double **moves, double alpha)
{
    double **to = y->sets[target], spare[2];
    const double share = share_of_way(y), most = smaller(alpha, 1.0);
    place(y, to, d, alpha);
    renew(
        &y->frame, (double *[]){moves[DU], moves[STEP_PATH], moves[STEP_END], moves[DNODES]},
        (double *[]){to[U], to[SLACK], to[END_SLACK], to[NODES]}, (double *[]){d[DP], d[DCOSTATES], d[STEP_Y], d[DMULTIPLIERS]}, &share,
        &most, spare,
        (double *[]){to[P], to[COSTATES], to[Y], to[NU], to[Z_CONTROLS], to[Z_PATHS], to[Z_ENDS], to[Z_STARTS]}
    );
    return visit(y, target, 1);
}

/* Whether a trial passes the filter, and whether by the rule of Armijo, as in `Walk._acceptable`. */
static int acceptable(const March *y, double **tried, double slope, double alpha, int *armijo)
{
    double *const rules = y->rules, *const state = y->state, **own = known(y);
    const double theta = tried[THETA][0], phi = tried[PHI][0], old = own[THETA][0], before = own[PHI][0];
    const double size = y->frame.constants[SIZE][0], noise = 1e-13 * (fabs(before) + size), shrunk = rules[MARGIN] * old;
    int better = theta <= old - shrunk || phi <= before - shrunk + noise;
    *armijo = 0;
    if (old <= 1e-4 * larger(1.0, old)) {
        const int switching = slope < 0.0 && alpha * pow(-slope / size, 2.3) > pow(old, 1.1);
        *armijo = switching && phi <= before + rules[ARMIJO] * alpha * slope + noise;
        better = (switching ? *armijo : better) || (theta <= 1e-12 && old <= 1e-12 && phi <= before + noise);
    }
    int good = better && isfinite(theta + phi) && theta <= state[THETA_MAX];
    for (int k = 0; good && k < (int)state[CORNERS]; k++)
        good = !(theta >= y->filter[k] && phi >= y->filter[y->room + k]);
    return good;
}

/* Second-order correction: the step with the residuals α c + c(trial), in the place of the second; and room for it. */
static int correct(March *y, double **tried, double alpha, double *beta)
{
    const Frame *f = &y->frame;
    double **own = known(y);
    const int sizes[RESIDUALS] = {f->N * f->s * f->v, f->N * f->v, f->N * f->s * f->e, f->k};
    for (int part = 0; part < RESIDUALS; part++)
        for (int i = 0; i < sizes[part]; i++)
            y->corrected[part][i] = alpha * own[STAGE + part][i] + tried[STAGE + part][i];
    const int found = direct(y, y->corrected, y->second);
    if (found > 0)
        *beta = room_for(y, y->second, 1.0);
    return found;
}

/* Lengths of full steps of a shifted Hessian, doubled while φ falls, as in `Walk._stretched`. */
static int stretch(March *y, int target, double **d, double phi, double *taken)
{
    double *const rules = y->rules, **own = known(y), **tried = y->sets[target];
    const double most = larger(own[THETA][0], rules[NONLINEAR] * d[REACH][0]) + 1e-12;
    int armijo;
    while (y->state[DELTA] > 0.0 && *taken >= 1.0 && *taken < rules[LONGEST] && room_for(y, d, 2.0 * *taken) >= 1.0) {
        const int visited = try_at(y, target, d, 2.0 * *taken);
        if (visited <= 0)
            return visited;
        if (!(acceptable(y, tried, d[DERIVATIVE][0], 2.0 * *taken, &armijo) && tried[PHI][0] < phi && tried[THETA][0] <= most))
            break;
        *taken *= 2.0, phi = tried[PHI][0];
    }
    return 1;
}

static int outcome(int answer) { return answer < 0 ? FAILED : answer ? MOVED : STOPPED; }

/* A step, as in `Walk.step`. */
static int stride(March *y)
{
    double *const rules = y->rules, *const state = y->state, **own = known(y);
    const int target = y->model == 1 ? 2 : 1;
    double **tried = y->sets[target], **found = y->first, alpha = 0.0, beta;
    int answer, armijo, other;
    answer = regular_direction(y, y->first);
    if (answer <= 0)
        return answer < 0 ? (PyErr_NoMemory(), FAILED) : STUCK;
    alpha = room_for(y, y->first, 1.0);
    if (lengthen(y, &alpha) < 0)
        return PyErr_NoMemory(), FAILED;
    answer = move_to(y, target, y->first, y->first, alpha); /* derivatives cost little: it is made as if it were good */
    if (answer <= 0)
        return outcome(answer);
    const double slope = y->first[DERIVATIVE][0], change = y->first[REACH][0], old = own[THETA][0], first = alpha, phi = tried[PHI][0];
    const double straight = state[STEPS]++ < rules[FIRST_STEPS] ? rules[CAREFUL] : rules[NONLINEAR];
    int good = 0;
    for (int halving = 0; !good; halving++, alpha *= 0.5) {
        if (halving >= (int)rules[HALVINGS])
            return STUCK;
        if (halving && (answer = try_at(y, target, y->first, alpha)) <= 0)
            return outcome(answer);
        good = acceptable(y, tried, slope, alpha, &armijo);
        good = good && tried[THETA][0] <= (1.0 - alpha) * old + straight * alpha * change + 1e-12;
        if (!good && !halving && tried[THETA][0] > old) {
            answer = correct(y, tried, alpha, &beta);
            if (answer < 0)
                return PyErr_NoMemory(), FAILED;
            if (answer && (answer = try_at(y, target, y->second, beta)) <= 0)
                return outcome(answer);
            if (answer && acceptable(y, tried, slope, alpha, &other) && tried[THETA][0] <= old + straight * alpha * change)
                found = y->second, alpha = beta, armijo = other, good = 1;
        }
        if (good)
            break;
    }
    if (!armijo) {
        const int k = (int)state[CORNERS]++;
        y->filter[k] = (1.0 - rules[MARGIN]) * old;
        y->filter[y->room + k] = own[PHI][0] - rules[MARGIN] * old;
    }
    double taken = alpha;
    answer = stretch(y, target, found, phi, &taken);
    const int as_tried = found == y->first && taken == first && !(state[DELTA] > 0.0 && taken >= 1.0);
    if (answer > 0 && !as_tried)
        answer = move_to(y, target, found, y->first, taken);
    if (answer <= 0)
        return outcome(answer);
    go(y, target);
    y->model = target;
    quadratic(&y->frame, tried + F, tried[PATH], tried + BENT);
    find_errors(y, tried, tried, tried + DUAL);
    state[DELTA] = 0.0;
    return MOVED;
}

/* ------------------------------------------------------------------------------------------------------------ march */

static double cost(const Frame *y, double **at)
{
    double sum = at[END_COST][0];
    for (int i = 0; i < y->N * y->s; i++)
        sum += y->constants[WEIGHTS][i] * at[RUNNING][i];
    return sum;
}

static void note(March *y)
{
    y->seen[y->looks] = cost(&y->frame, here(y));
    y->seen[(int)y->rules[STEPS_TO_GO] + 1 + y->looks++] = y->state[ERROR];
}

/* Whether the march goes on from here, is done, or something has to be decided, as `Crew.look` says, which then looks again. */
static int look(March *y)
{
    double *const rules = y->rules, *const state = y->state, **own = known(y);
    const double hat = state[MU] / unit(y);
    state[ERROR] = largest_error(own + DUAL);
    if (state[ERROR] <= enough(rules, hat) && own[BOUGHT][0] > rules[MOST_BOUGHT] + 10.0 * hat)
        return ASK; /* a violation pays */
    double fairly = 0.0;
    if (state[MU] <= 1.0001 * rules[MU_END]) {
        const double dual = own[DUAL][0], primal = own[PRIMAL][0], accuracy = rules[ACCURACY];
        if (dual <= accuracy && primal <= accuracy && own[DISTANCE][0] <= rules[KAPPA] * hat)
            return note(y), DONE;
        fairly = dual <= rules[FAIR] && primal <= sqrt(accuracy) ? state[FAIRLY] + 1.0 : 0.0;
    }
    if (fairly >= rules[NEARLY] || y->count >= (int)rules[STEPS_TO_GO])
        return ASK;
    state[FAIRLY] = fairly;
    note(y);
    return ON;
}

/* Everything that is known at the start, in the place of the first of the points that are written to. */
static void set_out(March *y)
{
    const Frame *f = &y->frame;
    double **to = y->sets[1], **from = y->sets[0];
    const size_t points = (size_t)f->N * f->s, x = points * f->v, gaps = (size_t)(f->N + 1) * f->v, e = points * f->e;
    const size_t sizes[CONTROLS] = {x, points * f->m, x, gaps, gaps, e, e, f->k, f->k};
    const size_t barriers[] = {points * f->m, e, f->k, f->v};
    for (int i = 0; i < CONTROLS; i++)
        memcpy(to[i], from[i], sizeof(double) * sizes[i]);
    for (int i = 0; i < 4; i++)
        memcpy(to[Z_CONTROLS + 2 * i], from[Z_CONTROLS + 2 * i], 2 * sizeof(double) * barriers[i]);
    evaluate(y, 1, 1);
    go(y, 1);
    y->model = 1;
    quadratic(f, to + F, to[PATH], to + BENT);
    find_errors(y, to, to, to + DUAL);
    y->state[CORNERS] = 0.0;
    y->state[THETA_MAX] = larger(1e4 * larger(1.0, to[THETA][0]), 1.0);
}

/* Memory for everything that is none of Python's. */
static double *make_room(March *y)
{
    const Frame *f = &y->frame;
    const size_t points = (size_t)f->N * f->s, x = points * f->v, u = points * f->m, e = points * f->e, k = (size_t)f->k;
    const size_t gaps = (size_t)f->N * f->v, nodes = gaps + f->v, v = (size_t)f->v, D = (size_t)f->D;
    const size_t steps[STEP] = {x, u, x, nodes, nodes, k, e, e, k, 1, 1, 1, 1};
    const size_t others[] = {e, points * D, v, v, v, k, v, k, x, gaps, x, gaps, e, k, points * D * D};
    enum { OTHERS = SYSTEM + 2 + RESIDUALS + 1 };
    size_t all = 0;
    for (int i = 0; i < STEP; i++)
        all += 2 * steps[i];
    for (int i = 0; i < OTHERS; i++)
        all += others[i];
    double *memory = malloc(sizeof(double) * all), *place = memory, *rest[OTHERS];
    if (!memory)
        return memory;
    for (int i = 0; i < STEP; place += steps[i++])
        y->first[i] = place;
    for (int i = 0; i < STEP; place += steps[i++])
        y->second[i] = place;
    for (int i = 0; i < OTHERS; place += others[i++])
        rest[i] = place;
    memcpy(y->right, rest, sizeof y->right);
    memcpy(y->minus, rest + SYSTEM, sizeof y->minus);
    memcpy(y->corrected, rest + SYSTEM + 2, sizeof y->corrected);
    y->shifted = rest[OTHERS - 1];
    return memory;
}

/* Where the arrays of a point and of what is known there stand in one piece of memory, in the order of `march._Layout`;
   bounds are those of the point to begin with. */
static void spread(const Frame *f, double *place, double **to, double *const *bounds)
{
    const size_t points = (size_t)f->N * f->s, v = f->v, e = f->e, k = f->k, D = f->D, m = f->m, rows = v + 1 + e;
    const size_t x = points * v, u = points * m, c = points * e, gaps = f->N * v, nodes = gaps + v, z = points * D;
    const size_t sizes[KNOWN] = {
        x, u, x, nodes, nodes, c, c, k, k, 0, 2 * u, 0, 2 * c, 0, 2 * k, 0, 2 * v,
        x, points, c, points * rows * D, z * D, 1, k, v, k * v, v * v, x, gaps, c, k, 1, 1,
        z * D, z, x, z, gaps, z, c, c, 1, 1, 1, 1
    };
    for (int i = 0; i < KNOWN; place += sizes[i++])
        to[i] = place;
    for (int i = CONTROLS; i < POINT; i += 2)
        to[i] = bounds[i];
}

PyObject *py_march(PyObject *self, PyObject *arguments)
{
    double *sets[3][KNOWN], *inputs[5], *places[2], *memory = NULL;
    March y = {.sets = {sets[0], sets[1], sets[2]}};
    if (PyTuple_Size(arguments) != 8) {
        PyErr_SetString(PyExc_TypeError, "expected 8 arguments");
        return NULL;
    }
    PyObject *arrays = PyTuple_GetSlice(arguments, 0, 6), *programs = PyTuple_GetItem(arguments, 6), *answer = NULL;
    if (!arrays)
        return NULL;
    const int fresh = PyTuple_Size(PyTuple_GetItem(arguments, 3)) == 0;
    int good = enter(&y.frame, arrays, 3, (double **[]){sets[0] + POINT, places, inputs}, (int[]){fresh ? 0 : KNOWN - POINT, 2, 5});
    good = good && open_tapes(y.tapes, programs, TAPES);
    if (good) {
        memcpy(sets[0], y.frame.point, sizeof y.frame.point);
        for (int i = 0; i < 2; i++)
            spread(&y.frame, places[i], sets[i + 1], sets[0]);
        y.times = inputs[0], y.rules = inputs[1], y.state = inputs[2], y.filter = inputs[3], y.seen = inputs[4];
        y.room = (int)y.frame.buffers[y.frame.count - 2].shape[1];
        y.frame.mu = y.state + MU;
        y.proceed = PyTuple_GetItem(arguments, 7);
        memory = make_room(&y);
        if (!memory)
            PyErr_NoMemory();
        good = memory != NULL;
    }
    int last = MOVED, next = ON;
    if (good && fresh) {
        set_out(&y);
        next = look(&y);
    }
    while (good && next == ON) {
        lower(&y);
        last = stride(&y);
        if (last != MOVED)
            break;
        y.count++;
        next = look(&y);
    }
    free(memory);
    close_tapes(y.tapes, TAPES);
    if (good && last != FAILED)
        answer = Py_BuildValue("iiiiii", y.count, y.looks, y.point, y.model, last == STUCK, next == DONE);
    Py_DECREF(arrays);
    PyObject *none = leave(&y.frame, answer != NULL);
    Py_XDECREF(none);
    return answer;
}
