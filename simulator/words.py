"""The words that names of people, departments and roles are made of. Pure: no I/O."""

from collections.abc import Sequence

SURNAMES = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗郑梁谢宋唐许韩冯邓曹彭曾肖田董潘袁蔡蒋余于杜"
GIVEN = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰红建文辉力国志海峰鹏宇浩欣怡子涵"
PINYIN = ("wang", "li", "zhang", "liu", "chen", "yang", "huang", "zhao", "wu", "zhou", "xu", "sun", "ma", "zhu")
TITLES = ("工程师", "高级工程师", "产品经理", "设计师", "销售", "客户经理", "会计", "出纳", "行政", "总监", "实习生")
PLACES = ("杭州未来Park", "北京望京", "上海张江", "深圳南山", "成都天府", "西安高新")
UNITS = ("研发", "产品", "设计", "市场", "销售", "财务", "人事", "行政", "法务", "采购", "质量", "客服", "数据", "安全")
KINDS = ("部", "中心", "组", "事业部", "团队", "办公室")
HOBBIES = ("旅游", "读书", "篮球", "摄影")
#: The role groups of every organisation, each with its roles; one is empty.
ROLE_GROUPS: dict[str, Sequence[str]] = {
    "默认": ("负责人", "主管"),
    "职务": ("总监", "经理", "主管", "财务", "人事", "出纳"),
    "岗位": ("后端开发", "前端开发", "测试", "运维", "设计"),
    "项目": (),
}
