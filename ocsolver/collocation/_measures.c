/* What `system.System` computes at a point of an iteration, in one pass over the mesh: residuals and the measures of the
   filter, the quadratic model, the errors, and what a Newton step means for slacks and multipliers.
*/
#include "_frame.h"
#include "_kernels.h"

enum { F, RUNNING, C, JACOBIAN, HESSIAN, VALUES };
enum { END_COST, END_C, END_SLOPE, END_JACOBIAN, END_HESSIAN, END };
enum { STAGE, GAP, PATH, TERMINAL, THETA, PHI, RESIDUAL };
enum { BENT, SLOPE, COSTATE, RIGHT, BACK, GRADIENT, PULL, AIM, MODEL };
enum { DX, DU, DNODES, DMULTIPLIERS, DIRECTION };
enum { STEP_PATH, STEP_Y, STEP_END, DERIVATIVE, BEND, LENGTH, REACH, STEP };

/* Groups that are summed side by side: those at one point are neighbours in memory. */
#define BLOCK 16
#define BLOCKS(first, last) \
    for (int first = 0, last = G < BLOCK ? G : BLOCK; first < G; first = last, last = G < last + BLOCK ? G : last + BLOCK)

/* ------------------------------------------------------------------------------------------------------- residual */

void measure(const Frame *y, double **values, double **end, double **out)
{
    const int N = y->N, s = y->s, G = y->G, v = y->v, m = y->m, e = y->e, k = y->k;
    double *const *c = y->constants, *const *q = y->point;
    const size_t points = (size_t)N * s * G;
    for (int g = 0; g < G; g++)
        out[THETA][g] = 0.0, out[PHI][g] = end[END_COST][g];
    for (int n = 0; n < N; n++)
        for (int i = 0; i < s; i++)
            for (int g = 0; g < G; g++) {
                const size_t at = ((size_t)n * s + i) * G + g;
                const double h = c[H][n * G + g], w = c[WEIGHTS][at], mu = y->mu[g];
                double theta = 0.0, logs = 0.0, prices = 0.0;
                for (int r = 0; r < v; r++) {
                    double value = -h * values[F][at * v + r];
                    const double start = q[NODES][((size_t)n * G + g) * v + r];
                    for (int j = 0; j < s; j++)
                        value += c[ALPHA][i * s + j] * (q[X][(((size_t)n * s + j) * G + g) * v + r] - start);
                    out[STAGE][at * v + r] = value;
                    theta += fabs(value) / c[SCALE_X][g * v + r];
                }
                for (int r = 0; r < m; r++)
                    logs += logarithm(sides(q[CONTROLS], q[Z_CONTROLS], at * m + r, points * m, q[U][at * m + r]));
                for (int r = 0; r < e; r++) {
                    const size_t place = at * e + r;
                    const double gap = values[C][place] - q[SLACK][place];
                    out[PATH][place] = gap;
                    logs += logarithm(sides(q[PATHS], q[Z_PATHS], place, points * e, q[SLACK][place]));
                    prices += price(gap, c[RHO_PATH][place], mu);
                }
                out[THETA][g] += theta;
                out[PHI][g] += w * (values[RUNNING][at] - mu * logs + prices);
            }
    for (int n = 0; n < N; n++)
        for (int g = 0; g < G; g++)
            for (int r = 0; r < v; r++) {
                const size_t here = ((size_t)n * G + g) * v + r;
                double value = q[NODES][here + (size_t)G * v] - q[NODES][here];
                for (int j = 0; j < s; j++)
                    value -= c[D_][j] * (q[X][(((size_t)n * s + j) * G + g) * v + r] - q[NODES][here]);
                out[GAP][here] = value;
                out[THETA][g] += fabs(value) / c[SCALE_X][g * v + r];
            }
    for (int g = 0; g < G; g++) {
        const double mu = y->mu[g] * c[DURATION][g];
        double logs = 0.0;
        for (int r = 0; r < k; r++) {
            const size_t place = (size_t)g * k + r;
            out[TERMINAL][place] = end[END_C][place] - q[END_SLACK][place];
            logs += logarithm(sides(q[ENDS], q[Z_ENDS], place, (size_t)G * k, q[END_SLACK][place]));
            out[PHI][g] += price(out[TERMINAL][place], c[RHO_END][place], mu);
        }
        for (int r = 0; r < v; r++) {
            const size_t place = (size_t)g * v + r;
            logs += logarithm(sides(q[STARTS], q[Z_STARTS], place, (size_t)G * v, q[NODES][place]));
        }
        out[PHI][g] -= mu * logs;
    }
}

PyObject *py_residual(PyObject *self, PyObject *arguments)
{
    double *q[3], *at_end[2], *out[RESIDUAL];
    Frame y;
    int good = enter(&y, arguments, 3, (double **[]){q, at_end, out}, (int[]){3, 2, RESIDUAL});
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        measure(&y, q, at_end, out);
        Py_END_ALLOW_THREADS
    }
    return leave(&y, good);
}

/* ---------------------------------------------------------------------------------------------------------- model */

void quadratic(const Frame *y, double **values, const double *path, double **out)
{
    const int N = y->N, s = y->s, G = y->G, v = y->v, m = y->m, D = y->D, e = y->e, rows = y->v + 1 + y->e;
    double *const *c = y->constants, *const *q = y->point;
    const size_t points = (size_t)N * s * G;
    for (int n = 0; n < N; n++)
        for (int i = 0; i < s; i++)
            for (int g = 0; g < G; g++) {
                const size_t at = ((size_t)n * s + i) * G + g;
                const double h = c[H][n * G + g], w = c[WEIGHTS][at], mu = y->mu[g];
                const double *J = values[JACOBIAN] + at * rows * D, *W = values[HESSIAN] + at * D * D;
                double *bent = out[BENT] + at * D * D, *slope = out[SLOPE] + at * D;
                double *right = out[RIGHT] + at * D, *gradient = out[GRADIENT] + at * D;
                memcpy(bent, W, sizeof(double) * D * D);
                for (int r = 0; r < D; r++) {
                    double value = J[v * D + r];
                    gradient[r] = w * value;
                    for (int f = 0; f < v; f++)
                        value -= q[P][at * v + f] * J[f * D + r];
                    slope[r] = value;
                    right[r] = -h * value;
                }
                for (int r = 0; r < v; r++) {
                    double value = -c[D_][i] / c[B_][i] * q[COSTATES][((size_t)(n + 1) * G + g) * v + r];
                    for (int j = 0; j < s; j++)
                        value += c[ADJOINT][i * s + j] * q[P][(((size_t)n * s + j) * G + g) * v + r];
                    out[COSTATE][at * v + r] = value;
                    right[r] -= value;
                }
                for (int r = 0; r < m; r++) {
                    const Sides u = sides(q[CONTROLS], q[Z_CONTROLS], at * m + r, points * m, q[U][at * m + r]);
                    const double force = push(u, mu);
                    bent[(v + r) * D + v + r] += curvature(u);
                    right[v + r] -= h * force;
                    gradient[v + r] += w * force;
                }
                for (int r = 0; r < e; r++) {
                    const size_t place = at * e + r;
                    const double rho = c[RHO_PATH][place], nu = q[Y][place], *cz = J + (v + 1 + r) * D;
                    const Sides slack = sides(q[PATHS], q[Z_PATHS], place, points * e, q[SLACK][place]);
                    const double slip = loose(slack, c[PATH_FIXED][r]);
                    const double pull = 1.0 / (give(path[place], nu, rho, mu) + slip);
                    const double rest = path[place] - relation(nu, rho, mu) + slip * (push(slack, mu) - nu);
                    out[PULL][place] = pull;
                    out[AIM][place] = nu + pull * rest;
                    for (int a = 0; a < D; a++)
                        for (int b = 0; b < D; b++)
                            bent[a * D + b] += pull * cz[a] * cz[b];
                }
            }
    double rest = 1.0;
    for (int j = 0; j < s; j++)
        rest -= c[D_][j];
    for (int n = 0; n < N; n++)
        for (int g = 0; g < G; g++)
            for (int r = 0; r < v; r++) {
                const size_t here = ((size_t)n * G + g) * v + r;
                double value = rest * q[COSTATES][here + (size_t)G * v] - q[COSTATES][here];
                for (int j = 0; j < s; j++)
                    value += c[B_][j] * c[ROW][j] * q[P][(((size_t)n * s + j) * G + g) * v + r];
                out[BACK][here] = value;
            }
}

PyObject *py_model(PyObject *self, PyObject *arguments)
{
    double *q[VALUES], *gaps[1], *out[MODEL];
    Frame y;
    int good = enter(&y, arguments, 3, (double **[]){q, gaps, out}, (int[]){VALUES, 1, MODEL});
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        quadratic(&y, q, gaps[0], out);
        Py_END_ALLOW_THREADS
    }
    return leave(&y, good);
}

/* ------------------------------------------------------------------------------------------------------ equations */

enum { N_JACOBIAN, N_RIGHT, N_PULL, N_AIM, N_PATH, N_END_SLOPE, N_END_JACOBIAN, N_CORRECTED_PATH, N_TERMINAL, N_ALL };
enum { E_AIM, E_RIGHT, E_START_X, E_START_Q, E_START_RIGHT, E_SLACK, E_END_RIGHT, E_CONSTRAINT, EQUATIONS };

/* What the Newton system has on its right, and at its ends. */
void arrange(const Frame *y, double **own, double **out)
{
    const int N = y->N, s = y->s, G = y->G, v = y->v, D = y->D, e = y->e, k = y->k, rows = y->v + 1 + y->e;
    double *const *c = y->constants, *const *q = y->point;
    for (int point = 0; e && point < N * s; point++)
        for (int g = 0; g < G; g++) {
            const size_t at = (size_t)point * G + g;
            const double h = c[H][(size_t)(point / s) * G + g];
            double *right = out[E_RIGHT] + at * D;
            memcpy(right, own[N_RIGHT] + at * D, sizeof(double) * D);
            for (int r = 0; r < e; r++) {
                const size_t place = at * e + r;
                const double *cz = own[N_JACOBIAN] + (at * rows + v + 1 + r) * D;
                const double rest = own[N_CORRECTED_PATH][place] - own[N_PATH][place];
                const double aim = own[N_AIM][place] + (rest != 0.0 ? own[N_PULL][place] * rest : 0.0);
                out[E_AIM][place] = aim;
                for (int a = 0; a < D; a++)
                    right[a] -= h * aim * cz[a];
            }
        }
    for (int g = 0; g < G; g++) {
        const double mu = y->mu[g] * c[DURATION][g];
        for (int a = 0; a < v; a++) {
            const size_t place = (size_t)g * v + a;
            const double x0 = q[NODES][place];
            const Sides start = sides(q[STARTS], q[Z_STARTS], place, (size_t)G * v, x0);
            const int fixed = c[START_FIXED][place] != 0.0;
            out[E_START_X][place] = fixed ? 1.0 : curvature(start);
            out[E_START_Q][place] = fixed ? 0.0 : -1.0;
            out[E_START_RIGHT][place] = fixed ? c[START_LOWER][place] - x0 : q[COSTATES][place] - push(start, mu);
            double value = -(q[COSTATES][((size_t)N * G + g) * v + a] + own[N_END_SLOPE][place]);
            for (int r = 0; r < k; r++)
                value -= q[NU][g * k + r] * own[N_END_JACOBIAN][((size_t)g * k + r) * v + a];
            out[E_END_RIGHT][place] = value;
        }
        for (int r = 0; r < k; r++) {
            const size_t place = (size_t)g * k + r;
            const double gap = own[N_TERMINAL][place], nu = q[NU][place], rho = c[RHO_END][place];
            const Sides end = sides(q[ENDS], q[Z_ENDS], place, (size_t)G * k, q[END_SLACK][place]);
            const double slip = loose(end, c[END_FIXED][r]);
            out[E_SLACK][place] = give(gap, nu, rho, mu) + slip;
            out[E_CONSTRAINT][place] = relation(nu, rho, mu) - gap + (slip ? slip * (nu - push(end, mu)) : 0.0);
        }
    }
}

PyObject *py_equations(PyObject *self, PyObject *arguments)
{
    double *own[N_ALL], *out[EQUATIONS];
    Frame y;
    int good = enter(&y, arguments, 2, (double **[]){own, out}, (int[]){N_ALL, EQUATIONS});
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        arrange(&y, own, out);
        Py_END_ALLOW_THREADS
    }
    return leave(&y, good);
}

/* --------------------------------------------------------------------------------------------------------- errors */

enum { OWN_SLOPE, OWN_COSTATE, OWN_JACOBIAN, OWN_STAGE, OWN_GAP, OWN_PATH, OWN_TERMINAL, OWN_END_SLOPE, OWN_END_JACOBIAN, OWN };

void worst(const Frame *y, double **own, double **out)
{
    const int N = y->N, s = y->s, G = y->G, v = y->v, m = y->m, D = y->D, e = y->e, k = y->k, rows = y->v + 1 + y->e;
    double *const *c = y->constants, *const *q = y->point;
    const size_t points = (size_t)N * s * G;
    BLOCKS(begin, end) {
        double dual_u[BLOCK] = {0.0}, dual_x[BLOCK] = {0.0}, primal[BLOCK] = {0.0}, gap[BLOCK] = {0.0};
        double bought[BLOCK] = {0.0};
        for (int n = 0; n < N; n++) {
            for (int i = 0; i < s; i++)
                for (int g = begin, l = 0; g < end; g++, l++) {
                    const size_t at = ((size_t)n * s + i) * G + g;
                    const double h = c[H][n * G + g], mu = y->mu[g];
                    for (int r = 0; r < D; r++) {
                        double value = own[OWN_SLOPE][at * D + r];
                        for (int j = 0; j < e; j++)
                            value += q[Y][at * e + j] * own[OWN_JACOBIAN][(at * rows + v + 1 + j) * D + r];
                        if (r < v) {
                            const double scale = c[SCALE_X][g * v + r];
                            value = h * value + own[OWN_COSTATE][at * v + r];
                            dual_x[l] = larger(dual_x[l], fabs(value * scale));
                            primal[l] = larger(primal[l], fabs(own[OWN_STAGE][at * v + r] / scale));
                        } else {
                            const size_t place = at * m + r - v;
                            const Sides u = sides(q[CONTROLS], q[Z_CONTROLS], place, points * m, q[U][place]);
                            value += (u.upper ? u.high : 0.0) - (u.lower ? u.low : 0.0);
                            dual_u[l] = larger(dual_u[l], fabs(value * c[SCALE_Z][g * D + r]));
                            gap[l] = larger(gap[l], complementarity(u, mu));
                        }
                    }
                    for (int r = 0; r < e; r++) {
                        const size_t place = at * e + r;
                        const double worth = relation(q[Y][place], c[RHO_PATH][place], mu), left = own[OWN_PATH][place] - worth;
                        const Sides slack = sides(q[PATHS], q[Z_PATHS], place, points * e, q[SLACK][place]);
                        primal[l] = larger(primal[l], fabs(left)), bought[l] = larger(bought[l], fabs(worth));
                        gap[l] = larger(gap[l], complementarity(slack, mu));
                    }
                }
            for (int g = begin, l = 0; g < end; g++, l++)
                for (int r = 0; r < v; r++)
                    primal[l] = larger(primal[l], fabs(own[OWN_GAP][((size_t)n * G + g) * v + r] / c[SCALE_X][g * v + r]));
        }
        for (int g = begin, l = 0; g < end; g++, l++) {
            const double size = c[SIZE][g], duration = c[DURATION][g], mu_end = y->mu[g] * duration;
            double gap_end = 0.0;
            for (int r = 0; r < v; r++) {
                const size_t place = (size_t)g * v + r;
                double value = q[COSTATES][((size_t)N * G + g) * v + r] + own[OWN_END_SLOPE][place];
                for (int j = 0; j < k; j++)
                    value += q[NU][g * k + j] * own[OWN_END_JACOBIAN][((size_t)g * k + j) * v + r];
                dual_x[l] = larger(dual_x[l], fabs(value * c[SCALE_X][place]));
                const Sides start = sides(q[STARTS], q[Z_STARTS], place, (size_t)G * v, q[NODES][place]);
                gap_end = larger(gap_end, complementarity(start, mu_end));
            }
            for (int r = 0; r < k; r++) {
                const size_t place = (size_t)g * k + r;
                const double worth = relation(q[NU][place], c[RHO_END][place], mu_end), left = own[OWN_TERMINAL][place] - worth;
                const Sides slack = sides(q[ENDS], q[Z_ENDS], place, (size_t)G * k, q[END_SLACK][place]);
                primal[l] = larger(primal[l], fabs(left)), bought[l] = larger(bought[l], fabs(worth));
                gap_end = larger(gap_end, complementarity(slack, mu_end));
            }
            out[0][g] = larger(dual_u[l] * duration, dual_x[l]) / size;
            out[1][g] = primal[l];
            out[2][g] = larger(gap[l] * duration, gap_end) / size;
            out[3][g] = bought[l];
        }
    }
}

PyObject *py_errors(PyObject *self, PyObject *arguments)
{
    double *own[OWN], *out[4];
    Frame y;
    int good = enter(&y, arguments, 2, (double **[]){own, out}, (int[]){OWN, 4});
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        worst(&y, own, out);
        Py_END_ALLOW_THREADS
    }
    return leave(&y, good);
}

/* ----------------------------------------------------------------------------------------------------------- step */

enum { M_JACOBIAN, M_HESSIAN, M_GRADIENT, M_PULL, M_AIM, M_PATH, M_TERMINAL, M_END_SLOPE, M_END_JACOBIAN, M_END_HESSIAN, M_ALL };

void meaning(const Frame *y, double **own, double **d, double **out)
{
    const int N = y->N, s = y->s, G = y->G, v = y->v, m = y->m, D = y->D, e = y->e, k = y->k, rows = y->v + 1 + y->e;
    double *const *c = y->constants, *const *q = y->point;
    const size_t points = (size_t)N * s * G;
    BLOCKS(begin, stop) {
        double derivatives[BLOCK] = {0.0}, bends[BLOCK] = {0.0}, lengths[BLOCK] = {0.0}, reaches[BLOCK] = {0.0};
        for (int point = 0; point < N * s; point++)
            for (int g = begin, l = 0; g < stop; g++, l++) {
                const size_t at = (size_t)point * G + g;
                const double mu = y->mu[g], h = c[H][(size_t)(point / s) * G + g];
                double derivative = 0.0, reach = 0.0;
                const double w = c[WEIGHTS][at], *dx = d[DX] + at * v, *du = d[DU] + at * m;
                const double *W = own[M_HESSIAN] + at * D * D, *gradient = own[M_GRADIENT] + at * D;
                double bent = 0.0, size = 0.0;
                for (int a = 0; a < D; a++) {
                    const double da = a < v ? dx[a] : du[a - v], scale = c[SCALE_Z][g * D + a];
                    double value = 0.0;
                    for (int b = 0; b < v; b++)
                        value += W[a * D + b] * dx[b];
                    for (int b = 0; b < m; b++)
                        value += W[a * D + v + b] * du[b];
                    bent += da * value;
                    size += da * da / (scale * scale);
                    derivative += gradient[a] * da;
                }
                bends[l] += w * bent;
                lengths[l] += w * size;
                for (int r = 0; r < v; r++) {
                    const double *rate = own[M_JACOBIAN] + (at * rows + r) * D;
                    double change = 0.0;
                    for (int b = 0; b < v; b++)
                        change += fabs(rate[b] * dx[b]);
                    for (int b = 0; b < m; b++)
                        change += fabs(rate[v + b] * du[b]);
                    reach += h * change / c[SCALE_X][g * v + r];
                }
                for (int r = 0; r < e; r++) {
                    const size_t place = at * e + r;
                    const double *cz = own[M_JACOBIAN] + (at * rows + v + 1 + r) * D, rho = c[RHO_PATH][place];
                    double image = 0.0;
                    for (int b = 0; b < v; b++)
                        image += cz[b] * dx[b];
                    for (int b = 0; b < m; b++)
                        image += cz[v + b] * du[b];
                    const Sides slack = sides(q[PATHS], q[Z_PATHS], place, points * e, q[SLACK][place]);
                    const double nu = own[M_AIM][place] + own[M_PULL][place] * image, force = push(slack, mu);
                    const double move = loose(slack, c[PATH_FIXED][r]) * (nu - force);
                    out[STEP_PATH][place] = move;
                    out[STEP_Y][place] = nu - q[Y][place];
                    derivative += w * (force * move + multiplier(own[M_PATH][place], rho, mu) * (image - move));
                }
                derivatives[l] += derivative, reaches[l] += reach;
            }
        for (int g = begin, l = 0; g < stop; g++, l++) {
            const double mu_end = y->mu[g] * c[DURATION][g];
            const double *first = d[DNODES] + (size_t)g * v, *last = d[DNODES] + ((size_t)N * G + g) * v;
            double derivative = derivatives[l], bend = bends[l];
            for (int a = 0; a < v; a++) {
                double value = 0.0;
                for (int b = 0; b < v; b++)
                    value += own[M_END_HESSIAN][((size_t)g * v + a) * v + b] * last[b];
                bend += value * last[a];
                derivative += own[M_END_SLOPE][(size_t)g * v + a] * last[a];
                const size_t place = (size_t)g * v + a;
                const Sides start = sides(q[STARTS], q[Z_STARTS], place, (size_t)G * v, q[NODES][place]);
                derivative += push(start, mu_end) * first[a];
                bend += curvature(start) * first[a] * first[a];
            }
            for (int r = 0; r < k; r++) {
                const size_t place = (size_t)g * k + r;
                double image = 0.0;
                for (int b = 0; b < v; b++)
                    image += own[M_END_JACOBIAN][place * v + b] * last[b];
                const Sides end = sides(q[ENDS], q[Z_ENDS], place, (size_t)G * k, q[END_SLACK][place]);
                const double force = push(end, mu_end), nu = q[NU][place] + d[DMULTIPLIERS][place];
                const double move = loose(end, c[END_FIXED][r]) * (nu - force);
                out[STEP_END][place] = move;
                derivative += multiplier(own[M_TERMINAL][place], c[RHO_END][place], mu_end) * (image - move) + force * move;
                bend += curvature(end) * move * move;
            }
            out[DERIVATIVE][g] = derivative, out[BEND][g] = bend;
            out[LENGTH][g] = lengths[l] / c[DURATION][g], out[REACH][g] = reaches[l];
        }
    }
}

PyObject *py_complete(PyObject *self, PyObject *arguments)
{
    double *own[M_ALL], *d[DIRECTION], *out[STEP];
    Frame y;
    int good = enter(&y, arguments, 3, (double **[]){own, d, out}, (int[]){M_ALL, DIRECTION, STEP});
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        meaning(&y, own, d, out);
        Py_END_ALLOW_THREADS
    }
    return leave(&y, good);
}
