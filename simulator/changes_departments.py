"""Changes to departments and to the organisation itself. Pure: no I/O."""

from dataclasses import replace

from simulator.edit import Edit, ImpossibleChange
from simulator.model import ROOT, Department, Membership, User
from simulator.seed import department_name, new_id, new_order


def org_dept_create(edit: Edit, named: int | None) -> None:
    rows = edit.tenant.departments.rows
    if named in rows:
        raise ImpossibleChange(f"department {named} is in the organisation already")
    dept_id = new_id(edit.rng, rows) if named is None else named
    parent_id = edit.rng.choice(list(rows))
    edit.tenant.put_department(Department(dept_id, parent_id, department_name(edit.rng), new_order(edit.rng)))
    edit.tell("org_dept_create", departments=[dept_id])


def org_dept_modify(edit: Edit, named: int | None) -> None:
    """Another name, parent (never below itself), place or manager; of the root only the name."""
    if named is None and len(edit.tenant.departments.rows) == 1:
        named = ROOT
    department = edit.department(named)
    change = edit.rng.choices((_rename, _move, _place, _managers), (40, 25, 15, 20))[0]
    if department.dept_id == ROOT:
        change = _rename
    change(edit, department)


def org_dept_remove(edit: Edit, named: int | None) -> None:
    """Its members and sub-departments move first; where only the root is left, a department is made."""
    if len(edit.tenant.departments.rows) == 1:
        org_dept_create(edit, None)
    department = edit.department(named) if named is not None else _smallest_of_few(edit)
    if department.parent_id is None:
        raise ImpossibleChange("the root department cannot be removed: name another one")
    for child in edit.view.children(department.dept_id):
        edit.tenant.put_department(replace(child, parent_id=department.parent_id))
        edit.tell("org_dept_modify", departments=[child.dept_id])
    members = edit.view.members(department.dept_id)
    edit.rewrite([(user, _moved_out(edit, user, department.dept_id, department.parent_id)) for user in members])
    _forget_scopes(edit, department.dept_id)
    edit.tenant.drop_department(department.dept_id)
    edit.tell("org_dept_remove", departments=[department.dept_id])


def org_change(edit: Edit, named: int | None) -> None:
    """The organisation gets another name, which is its root department's."""
    root = edit.department(ROOT)
    edit.tenant.put_department(replace(root, name=f"{department_name(edit.rng)}科技有限公司"))
    edit.tell("org_change")
    edit.tell("org_dept_modify", departments=[ROOT])


def org_remove(edit: Edit, named: int | None) -> None:
    """The organisation is dissolved: every read of it answers 70001 from now on."""
    edit.tell("org_remove")
    edit.tenant.dissolved = True


def _rename(edit: Edit, department: Department) -> None:
    name = f"{department_name(edit.rng)}{edit.rng.randrange(100)}"
    _write(edit, replace(department, name=name))


def _place(edit: Edit, department: Department) -> None:
    _write(edit, replace(department, order=new_order(edit.rng)))


def _move(edit: Edit, department: Department) -> None:
    view, rows = edit.view, list(edit.tenant.departments.rows)
    homes = [key for key in edit.rng.sample(rows, min(5, len(rows))) if department.dept_id not in view.ancestors(key)]
    _write(edit, replace(department, parent_id=homes[0] if homes else ROOT))


def _managers(edit: Edit, department: Department) -> None:
    """A member becomes a manager or stops being one; the department's list and the member's flag are one fact."""
    members = edit.view.members(department.dept_id)
    if not members:
        return _rename(edit, department)
    user = edit.rng.choice(members)
    rows = [_turned(row) if row.dept_id == department.dept_id else row for row in user.departments]
    return edit.rewrite([(user, replace(user, departments=tuple(rows)))])


def _turned(row: Membership) -> Membership:
    return Membership(row.dept_id, row.order, not row.leader)


def _write(edit: Edit, department: Department) -> None:
    edit.tenant.put_department(department)
    edit.tell("org_dept_modify", departments=[department.dept_id])


def _smallest_of_few(edit: Edit) -> Department:
    few = [edit.department(None) for _ in range(5)]
    return min(few, key=lambda department: len(edit.tenant.members.get(department.dept_id, ())))


def _moved_out(edit: Edit, user: User, dept_id: int, parent_id: int) -> User:
    """Out of the department; into its parent when it was the only one."""
    rows = tuple(row for row in user.departments if row.dept_id != dept_id)
    return replace(user, departments=rows or (edit.membership(parent_id),))


def _forget_scopes(edit: Edit, dept_id: int) -> None:
    """Nobody manages a department that is gone; DingTalk tells nobody of that."""
    for user in list(edit.tenant.users.rows.values()):
        if any(dept_id in holding.scopes for holding in user.roles):
            holdings = [row._replace(scopes=tuple(key for key in row.scopes if key != dept_id)) for row in user.roles]
            edit.tenant.put_user(replace(user, roles=tuple(holdings)))
