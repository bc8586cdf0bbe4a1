"""A whole organisation from a number of people and a seed; the same two give the same one. Pure: no I/O."""

import json
import random
from collections.abc import Container
from dataclasses import replace

from simulator.model import ROOT, Department, Membership, Role, RoleGroup, RoleHolding, User
from simulator.tenant import Tenant
from simulator.words import GIVEN, HOBBIES, KINDS, PINYIN, PLACES, ROLE_GROUPS, SURNAMES, TITLES, UNITS

#: One department for about so many people, as in common organisations of this kind.
PEOPLE_PER_DEPARTMENT = 17
#: So that even a tiny organisation has several levels.
FEWEST_DEPARTMENTS = 6
#: Levels below the root.
DEEPEST = 7
#: Members of the one large department, so that lists of members need several pages of 100.
LARGE_DEPARTMENT = 230
#: Milliseconds: 2015-01-01 in China, the earliest hiring; a fixed date keeps the organisation the same every day.
FIRST_HIRING = 1_420_041_600_000
#: Milliseconds in a day.
DAY = 86_400_000


def organisation(corp_id: str, people: int, seed: str) -> Tenant:
    """An organisation with exactly `people` users; ValueError below one."""
    if people < 1:
        raise ValueError("an organisation has at least one user: give a number of users from 1 up")
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    tenant = Tenant(corp_id, f"{rng.choice(UNITS)}{rng.choice(GIVEN)}{rng.choice(GIVEN)}科技有限公司")
    dept_ids = _departments(tenant, people, rng)
    role_ids = _roles(tenant, people, rng)
    _people(tenant, people, dept_ids, role_ids, rng)
    tenant.settle()
    return tenant


def new_id(rng: random.Random, taken: Container[int]) -> int:
    """An id as DingTalk gives them: mostly nine or ten digits, now and then beyond 2^53."""
    while True:
        number = rng.randrange(2**53, 2**62) if rng.random() < 0.03 else rng.randrange(100_000_000, 2_000_000_000)
        if number not in taken:
            return number


def new_order(rng: random.Random) -> int:
    """A place in a list: small when set by hand, else beyond 2^53."""
    return rng.randrange(1, 100) if rng.random() < 0.3 else rng.randrange(2**56, 2**58)


def person_name(rng: random.Random) -> str:
    return rng.choice(SURNAMES) + rng.choice(GIVEN) + (rng.choice(GIVEN) if rng.random() < 0.7 else "")


def department_name(rng: random.Random) -> str:
    return f"{rng.choice(UNITS)}{rng.choice(UNITS)}{rng.choice(KINDS)}"


def new_user(rng: random.Random, serial: int, departments: tuple[Membership, ...], userid: str | None = None) -> User:
    """A newcomer with no roles; `serial` makes userid, unionid, mobile and job number unique in the organisation."""
    login = f"{rng.choice(PINYIN)}{serial}"
    return User(
        userid=userid or _userid(rng, serial, login),
        unionid=f"{rng.getrandbits(120):030x}{serial:x}iEiE",
        name=person_name(rng),
        title=rng.choice(TITLES) if rng.random() < 0.9 else "",
        job_number=f"{serial:06d}" if rng.random() < 0.8 else "",
        mobile=f"1{rng.choice('3578')}{serial % 10**9:09d}",
        telephone=f"0571-{rng.randrange(80000000, 90000000)}" if rng.random() < 0.2 else "",
        email=f"{login}@example.com" if rng.random() < 0.5 else "",
        org_email=f"{login}@corp.example.com" if rng.random() < 0.3 else "",
        work_place=rng.choice(PLACES) if rng.random() < 0.6 else "",
        remark="备注：兼职" if rng.random() < 0.05 else "",
        departments=departments,
        avatar=f"https://static.example.com/avatar/{serial}.jpg" if rng.random() < 0.4 else None,
        hired_date=FIRST_HIRING + rng.randrange(4000) * DAY if rng.random() < 0.7 else None,
        extension=new_extension(rng) if rng.random() < 0.3 else None,
        hide_mobile=rng.random() < 0.05,
        active=rng.random() >= 0.06,
        senior=rng.random() < 0.02,
    )


def new_extension(rng: random.Random) -> str:
    """The employee's own fields: an object in a JSON string."""
    fields = {"爱好": rng.choice(HOBBIES), "年龄": str(rng.randrange(20, 60))}
    return json.dumps(fields, ensure_ascii=False)


def _userid(rng: random.Random, serial: int, login: str) -> str:
    kind = rng.random()
    if kind < 0.6:
        # Digits with leading zeros, as DingTalk gives them; the serial keeps them unique.
        return f"0{rng.randrange(10**8):08d}{serial:09d}"
    return f"{serial:06d}" if kind < 0.8 else login


def _departments(tenant: Tenant, people: int, rng: random.Random) -> list[int]:
    """The departments below the root; the first three stand under one another."""
    depth = {ROOT: 0}
    open_parents = [ROOT]
    made: list[int] = []
    for number in range(max(FEWEST_DEPARTMENTS, round(people / PEOPLE_PER_DEPARTMENT))):
        parent_id = [ROOT, *made][number] if number < 3 else rng.choice(open_parents)
        dept_id = new_id(rng, depth)
        tenant.put_department(
            Department(dept_id, parent_id, department_name(rng), new_order(rng), rng.random() < 0.5, rng.random() < 0.5)
        )
        depth[dept_id] = depth[parent_id] + 1
        if depth[dept_id] < DEEPEST:
            open_parents.append(dept_id)
        made.append(dept_id)
    return made


def _roles(tenant: Tenant, people: int, rng: random.Random) -> list[int]:
    groups = dict(ROLE_GROUPS)
    # More groups than one default page of 20 holds, in an organisation of some size.
    for number in range(min(20, people // 50)):
        groups[f"{rng.choice(UNITS)}专项{number + 1}"] = rng.sample(TITLES, rng.randrange(1, 4))
    made: list[int] = []
    taken: set[int] = set()
    for group_name, names in groups.items():
        group_id = new_id(rng, taken)
        taken.add(group_id)
        tenant.put_role_group(RoleGroup(group_id, group_name))
        for name in names:
            role_id = new_id(rng, taken)
            taken.add(role_id)
            tenant.put_role(Role(role_id, group_id, name))
            made.append(role_id)
    return made


def _people(tenant: Tenant, people: int, dept_ids: list[int], role_ids: list[int], rng: random.Random) -> None:
    places = [_places(number, people, dept_ids, rng) for number in range(people)]
    leaders: dict[int, int] = {}
    for number, chosen in enumerate(places):
        for dept_id in chosen:
            leaders.setdefault(dept_id, number)
    userids: list[str] = []
    subs = min(20, people // 60 + 1)
    for number, chosen in enumerate(places):
        rows = tuple(
            Membership(dept_id, new_order(rng), leaders[dept_id] == number or rng.random() < 0.01) for dept_id in chosen
        )
        user = new_user(rng, number + 1, rows, f"manager{rng.randrange(1000, 10000)}" if number == 0 else None)
        userids.append(user.userid)
        first = number == 0
        # A leader is the first member of a department, so whoever manages a user was made before them.
        manager = leaders[chosen[0]] if leaders[chosen[0]] != number else 0
        tenant.put_user(
            replace(
                user,
                manager_userid=userids[manager] if not first and rng.random() < 0.85 else None,
                roles=_holdings(role_ids, dept_ids, people, rng),
                active=user.active or first,
                boss=first,
                admin_level=1 if first else 2 if number <= subs else 0,
            )
        )


def _places(number: int, people: int, dept_ids: list[int], rng: random.Random) -> list[int]:
    """The departments of one user: one of five in several, one of fifty in the root itself."""
    count = rng.choices((1, 2, 3), (80, 15, 5))[0]
    chosen = [rng.choice(dept_ids) for _ in range(count)]
    if rng.random() < 0.02:
        chosen.append(ROOT)
    if people >= 2 * LARGE_DEPARTMENT and number < LARGE_DEPARTMENT:
        chosen.append(dept_ids[0])
    return list(dict.fromkeys(chosen))


def _holdings(role_ids: list[int], dept_ids: list[int], people: int, rng: random.Random) -> tuple[RoleHolding, ...]:
    """None to three roles; the last one stays without members, the second has more than a page of 100 if it can."""
    chosen = rng.sample(role_ids[:-1], rng.choices((0, 1, 2, 3), (40, 40, 15, 5))[0])
    if rng.random() < min(0.3, 500 / people):
        chosen.append(role_ids[1])
    return tuple(
        RoleHolding(role_id, (rng.choice(dept_ids),) if rng.random() < 0.1 else ()) for role_id in dict.fromkeys(chosen)
    )
